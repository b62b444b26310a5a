-- include: place
-- Returns a message to an ordinary queue and forgets its job, in one step. For celery_minsched/migration/release.py.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] key of the list in which it lies   ARGV[3] the message, as it lies there
-- ARGV[4] key of the ordinary queue's list   ARGV[5] the message, as it is sent there
-- ARGV[6] its job, "" for none
--
-- Returns {"OK", "returned"}
--         {"OK", "revoked"}   it was not sent: its caller is yet to be told
--         {"OK", "dropped"}   it was not sent: its job has ended, and it came twice
--         {"OK", "kept"}      nothing was changed: its job is at a node, or a node has yet to tell of it
--         {"OK", "gone"}      it does not lie there

local job = read_job(ARGV[6])

local function is_kept()
  return job.status == 'dispatched' or job.status == 'running' or redis.call('ZSCORE', key.lost(), job.id)
end

-- What becomes of the message.
local function fate()
  local reason = redis.call('HGET', key.job(job.id), 'reason')
  if reason == 'revoked' then return 'revoked' end
  if ENDED[job.status] and job.status ~= 'lost' and reason ~= 'expired' then return 'dropped' end
  return 'returned'
end

if is_kept() then return {'OK', 'kept'} end
redis.call('LLEN', ARGV[4])  -- refused here, and not later, if the user has no right to it or it is no list
if redis.call('LREM', ARGV[2], -1, ARGV[3]) == 0 then return {'OK', 'gone'} end
local became = fate()
if became == 'returned' then redis.call('LPUSH', ARGV[4], ARGV[5]) end
if job.status == 'waiting' then give_up_place(job) end
redis.call('ZREM', key.delayed(), job.id)
redis.call('ZREM', key.expiring(), job.id)
redis.call('DEL', key.job(job.id))
if job.task_id ~= '' and redis.call('GET', key.task(job.task_id)) == job.id then
  redis.call('DEL', key.task(job.task_id))
end
return {'OK', became}
