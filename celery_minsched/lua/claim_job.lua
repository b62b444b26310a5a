-- include: job
-- A node received a job's message and asks whether to run it. It does where it holds the job's slot.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] job_id       ARGV[3] node_id      ARGV[4] the message's delivery tag
-- ARGV[5] a name of this claim, by which it is told from an earlier one of the same job
--
-- Returns {"OK", "run", pool, chosen_by, ms in line, the node's term}  the slot is the job's
--         {"OK", "discard"}    revoked or expired: the worker tells the caller, and runs nothing
--         {"OK", "drop"}       the job has ended, or it is elsewhere: the message came twice
--         {"OK", "hand_back"}  the slot lapsed, and the node has no other: to be dispatched anew
--         {"OK", "full"}       the same, of a job whose record Redis has lost: ask again

local job, node_id = read_job(ARGV[2]), ARGV[3]

write_even_without_memory()
local was_given_up = job.status == 'lost'
if job.status ~= '' and (job.node_id ~= node_id or PARKED[job.status]) then return {'OK', 'drop'} end
if ENDED[job.status] and not was_given_up then
  local reason = redis.call('HGET', key.job(job.id), 'reason')
  return {'OK', DISCARDED[reason] and 'discard' or 'drop'}
end
local has_slot = redis.call('ZSCORE', key.node_jobs(node_id), job.id)
if not has_slot then
  local max_jobs = number(redis.call('HGET', key.node_info(node_id), 'max_jobs'))
  if redis.call('ZCARD', key.node_jobs(node_id)) >= max_jobs then
    return {'OK', job.status == '' and 'full' or 'hand_back'}
  end
end
redis.call('ZADD', key.node_jobs(node_id), NOW + TTL.lease, job.id)
redis.call('HSET', key.job(job.id), 'node_id', node_id, 'status', 'running', 'started_ts', NOW,
  'tag', ARGV[4], 'claim', ARGV[5])
if was_given_up then
  redis.call('HDEL', key.job(job.id), 'ended_ts', 'reason')
  redis.call('ZREM', key.lost(), job.id)
end
if not has_slot then
  expire_record(job)
  place_node(node_id)
end
local place = redis.call('HMGET', key.job(job.id), 'pool', 'chosen_by', 'waited_ms')
return {'OK', 'run', place[1] or '', place[2] or '', number(place[3]),
  number(redis.call('HGET', key.node_info(node_id), 'term'))}
