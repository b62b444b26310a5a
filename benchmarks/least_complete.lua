-- The smallest completion: frees the slot, counts the job, and records the end of the job.
--
-- KEYS[1] prefix of the keys     ARGV[1] pool     ARGV[2] node     ARGV[3] job

local node, job = ARGV[2], ARGV[3]
redis.call('ZREM', KEYS[1] .. 'node:jobs:' .. node, job)
local taken = redis.call('ZCARD', KEYS[1] .. 'node:jobs:' .. node)
local slots = redis.call('HGET', KEYS[1] .. 'node:info:' .. node, 'max_jobs')
redis.call('INCR', KEYS[1] .. 'finished')
redis.call('ZADD', KEYS[1] .. 'pool:' .. ARGV[1] .. ':free', taken / slots, node)
redis.call('HSET', KEYS[1] .. 'job:' .. job, 'status', 'finished')
redis.call('EXPIRE', KEYS[1] .. 'job:' .. job, 86400)
return {'OK'}
