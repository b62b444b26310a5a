-- include: node
-- Maps a language pair to pools, without a node saying so; replaces what was mapped this way before.
-- What nodes say of the pair stands beside it.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] "src:tgt"    ARGV[2...] pools; none takes the mapping back
--
-- Returns {"OK"}

local pair = ARGV[1]

for _, pool in ipairs(redis.call('SMEMBERS', key.lang(pair))) do
  redis.call('SREM', key.lang_speakers(pair, pool), '*')
  if redis.call('EXISTS', key.lang_speakers(pair, pool)) == 0 then
    redis.call('SREM', key.lang(pair), pool)
    redis.call('SREM', key.pool_langs(pool), pair)
  end
end
for i = 2, #ARGV do
  serve_pair(pair, ARGV[i], '*')
end
return {'OK'}
