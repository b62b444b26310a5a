-- include: job
-- Takes over a job's record of the original specification's layout. One that goes on holds a slot of its
-- node until it ends, for a while at most. Any other lapses, and is lost if it never ended. For
-- celery_minsched/migration/from_v1/carry.py, which has written the record down.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] job_id       ARGV[3] created_ts, ms
-- ARGV[4] payload_json, "" where it is well as it is
-- ARGV[5] what it asked for, see include/demand.lua; "" where it does not say
-- ARGV[6] ms since the epoch until which it holds its slot
--
-- Returns {"OK", "held" | "history" | "gone"}

local job, payload, held_until = read_job(ARGV[2]), ARGV[4], tonumber(ARGV[6])

if redis.call('EXISTS', key.job(job.id)) == 0 then return {'OK', 'gone'} end
redis.call('HSET', key.job(job.id), 'created_ts', ARGV[3])
if payload ~= '' then redis.call('HSET', key.job(job.id), 'payload_json', payload) end
expire_record(job)
local goes_on = job.node_id ~= '' and not ENDED[job.status] and held_until > NOW
if not goes_on or redis.call('HEXISTS', key.node_info(job.node_id), 'offers') == 0 then
  if job.node_id ~= '' then redis.call('ZREM', key.node_jobs(job.node_id), job.id) end
  if job.status == 'dispatched' or job.status == 'running' or PARKED[job.status] then
    redis.call('HSET', key.job(job.id), 'status', 'lost', 'reason', 'nobody was heard to run it')
  end
  return {'OK', 'history'}
end
redis.call('ZADD', key.node_jobs(job.node_id), held_until, job.id)
redis.call('HSET', key.job(job.id), 'status', 'dispatched', 'where', ARGV[5], 'dispatched_ts', ARGV[3])
return {'OK', 'held'}
