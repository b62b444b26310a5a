-- The smallest dispatch: reads the first node of a pool, takes a slot of the node, and records the job.
--
-- KEYS[1] prefix of the keys     ARGV[1] pool
--
-- Returns {node, job}

local free = KEYS[1] .. 'pool:' .. ARGV[1] .. ':free'
local node = redis.call('ZRANGE', free, 0, 0)[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local job = ':' .. redis.call('INCR', KEYS[1] .. 'job:id_seq')
redis.call('ZADD', KEYS[1] .. 'node:jobs:' .. node, now + 60000, job)
local taken = redis.call('ZCARD', KEYS[1] .. 'node:jobs:' .. node)
local slots = redis.call('HGET', KEYS[1] .. 'node:info:' .. node, 'max_jobs')
redis.call('ZADD', free, taken / slots, node)
redis.call('HSET', KEYS[1] .. 'job:' .. job, 'status', 'dispatched', 'node_id', node, 'pool', ARGV[1],
  'chosen_by', 'least_loaded', 'created_ts', now, 'dispatched_ts', now, 'payload_json', '{}')
redis.call('EXPIRE', KEYS[1] .. 'job:' .. job, 86400)
return {node, job}
