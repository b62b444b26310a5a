-- include: place
-- Returns a message to an ordinary queue and forgets its job, in one step. `celery minsched release` calls it.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] source_list: key of the list that has the message
-- ARGV[3] message, as it is in that list
-- ARGV[4] queue_list: key of the ordinary queue's list
-- ARGV[5] ordinary_message to put into that list
-- ARGV[6] job_id, "" for none
--
-- Returns {"OK", "returned"}
--         {"OK", "revoked"}   not sent: the job was revoked, and its caller needs a report
--         {"OK", "dropped"}   not sent: its job has ended, and it is a second copy
--         {"OK", "kept"}      nothing was changed: its job is at a node, or a node still has to report it
--         {"OK", "gone"}      it is no longer in the list

local job = read_job(ARGV.job_id)

local function is_kept()
  return job.status == 'dispatched' or job.status == 'running' or redis.call('ZSCORE', key.lost(), job.id)
end

local function outcome_of_message()
  local reason = redis.call('HGET', key.job(job.id), 'reason')
  if reason == 'revoked' then return 'revoked' end
  if ENDED[job.status] and job.status ~= 'lost' and reason ~= 'expired' then return 'dropped' end
  return 'returned'
end

if is_kept() then return {'OK', 'kept'} end
redis.call('LLEN', ARGV.queue_list)  -- fails here, before any change, without access or with a wrong type
if redis.call('LREM', ARGV.source_list, -1, ARGV.message) == 0 then return {'OK', 'gone'} end
local outcome = outcome_of_message()
if outcome == 'returned' then redis.call('LPUSH', ARGV.queue_list, ARGV.ordinary_message) end
stop_waiting(job)
redis.call('ZREM', key.expiring(), job.id)
redis.call('DEL', key.job(job.id))
if job.task_id ~= '' and redis.call('GET', key.task(job.task_id)) == job.id then
  redis.call('DEL', key.task(job.task_id))
end
return {'OK', outcome}
