-- include: node
-- Takes over a language pair of the original specification's layout, as if a program had mapped it. For
-- celery_minsched/migration/from_v1/carry.py.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] "src:tgt"    ARGV[3...] its pools
--
-- Returns {"OK"}

redis.call('DEL', key.lang(ARGV[2]))  -- it may be a hash
for i = 3, #ARGV do serve_pair(ARGV[2], ARGV[i], '*') end
return {'OK'}
