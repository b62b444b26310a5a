-- include: relink
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
  unserve_pair(pair, pool, '*')
end
for i = 3, #ARGV do
  serve_pair(pair, ARGV[i], '*')
end
relink_changed()
return {'OK'}
