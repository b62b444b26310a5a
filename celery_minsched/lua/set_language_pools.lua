-- include: reindex
-- Maps a language pair to pools on behalf of a program, and replaces its earlier mapping. The mappings that nodes
-- advertise stay beside it.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] pair, "src:tgt"
-- ARGV[3...] pools; none removes the mapping
--
-- Returns {"OK"}

local pair = ARGV.pair

for _, pool in ipairs(redis.call('SMEMBERS', key.lang(pair))) do
  unserve_pair(pair, pool, '*')
end
for pool in ARGV.pools do
  serve_pair(pair, pool, '*')
end
reindex_changed_pairs()
return {'OK'}
