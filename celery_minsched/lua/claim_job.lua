-- include: job
-- A node received a job's message and asks whether to run it. Run it where it holds the job's slot;
-- a slot that lapsed meanwhile is taken again if the node has one free.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] job_id       ARGV[2] node_id       ARGV[3] lease, ms       ARGV[4] history_ttl, ms
--
-- Returns {"OK", "run"}     the slot is the job's
--         {"OK", "full"}    the slot had lapsed, and the node has no other: ask again
--         {"OK", "drop"}    the job has ended, or it is another node's: the message came twice

local job_id, node_id = ARGV[1], ARGV[2]
local lease, history_ttl = tonumber(ARGV[3]), tonumber(ARGV[4])
local now = now_ms()

local job = redis.call('HMGET', key.job(job_id), 'node_id', 'status', 'started_ts')
if job[2] and (job[1] ~= node_id or (ENDED[job[2]] and job[2] ~= 'lost')) then
  return {'OK', 'drop'}
end
if not redis.call('ZSCORE', key.node_jobs(node_id), job_id) then
  local max_jobs = tonumber(redis.call('HGET', key.node_info(node_id), 'max_jobs') or 0)
  if redis.call('ZCARD', key.node_jobs(node_id)) >= max_jobs then return {'OK', 'full'} end
end
hold_slot(node_id, job_id, now + lease)
redis.call('HSET', key.job(job_id), 'node_id', node_id, 'status', 'running', 'started_ts', now)
redis.call('HDEL', key.job(job_id), 'ended_ts', 'reason')
redis.call('PEXPIRE', key.job(job_id), history_ttl)
place_node(node_id)
return {'OK', 'run'}
