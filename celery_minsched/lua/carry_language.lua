-- include: offers
-- Migrates a language pair from the layout of the original specification, as if a program had mapped it. `celery
-- minsched migrate` calls this.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] pair, "src:tgt"
-- ARGV[3...] pools that serve it
--
-- Returns {"OK"}

redis.call('DEL', key.lang(ARGV.pair))  -- it may be a hash
for pool in ARGV.pools do serve_pair(ARGV.pair, pool, '*') end
return {'OK'}
