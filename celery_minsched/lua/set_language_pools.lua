-- include: line
-- Maps a language pair to pools, without a node saying so; replaces what was mapped this way before.
-- What nodes say of the pair stands beside it.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] "src:tgt"    ARGV[3...] pools; none takes the mapping back
--
-- Returns {"OK"}

local pair = ARGV[2]

for _, pool in ipairs(redis.call('SMEMBERS', key.lang(pair))) do
  redis.call('SREM', key.lang_speakers(pair, pool), '*')
  if redis.call('EXISTS', key.lang_speakers(pair, pool)) == 0 then
    redis.call('SREM', key.lang(pair), pool)
    redis.call('SREM', key.pool_langs(pool), pair)
  end
end
local serving = {unpack(ARGV, 3)}
for _, pool in ipairs(serving) do
  serve_pair(pair, pool, '*')
end
fill_pools(serving)
return {'OK'}
