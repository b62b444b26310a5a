-- include: job
-- Migrates a job's record from the layout of the original specification. An active job holds a slot of its node until
-- it ends, or until a time limit. Any other job expires. If it never ended, it becomes lost. `celery minsched migrate`
-- calls this, after it has saved the record.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] job_id
-- ARGV[3] created_ts, ms since the epoch
-- ARGV[4] payload_json, "" if the record's own is right
-- ARGV[5] pool_selector that the job asked for, see include/demand.lua; "" if the record does not say
-- ARGV[6] held_until, ms since the epoch: the end of its lease
--
-- Returns {"OK", "held" | "history" | "gone"}

local job, held_until = read_job(ARGV.job_id), tonumber(ARGV.held_until)

if redis.call('EXISTS', key.job(job.id)) == 0 then return {'OK', 'gone'} end
redis.call('HSET', key.job(job.id), 'created_ts', ARGV.created_ts)
if ARGV.payload_json ~= '' then redis.call('HSET', key.job(job.id), 'payload_json', ARGV.payload_json) end
expire_record(job)
local is_active = job.node_id ~= '' and not ENDED[job.status] and held_until > NOW
if not is_active or redis.call('HEXISTS', key.node_info(job.node_id), 'offers') == 0 then
  if job.node_id ~= '' then redis.call('ZREM', key.node_jobs(job.node_id), job.id) end
  if job.status == 'dispatched' or job.status == 'running' or UNASSIGNED[job.status] then
    redis.call('HSET', key.job(job.id), 'status', 'lost', 'reason', 'no node reported it')
  end
  return {'OK', 'history'}
end
redis.call('ZADD', key.node_jobs(job.node_id), held_until, job.id)
redis.call('HSET', key.job(job.id), 'status', 'dispatched', 'where', ARGV.pool_selector,
  'dispatched_ts', ARGV.created_ts)
return {'OK', 'held'}
