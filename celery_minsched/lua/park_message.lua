-- include: place
-- Moves the message of a job from its node to the list that the job's record names, in one step. The
-- message of a job that has ended is settled, since nothing looks for it there.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] job_id       ARGV[3] the message, as it is parked
-- ARGV[4] suffix of the list for the message's priority: counts if Redis has lost what the job asks for
-- ARGV[5] node_id      ARGV[6] delivery tag of an unacknowledged message, "" if the message lies in a list
-- ARGV[7] key of that list, from which ARGV[3] is taken
--
-- Returns {"OK", "parked"}
--         {"OK", "incomplete"}   it is parked; Redis has lost what the job asks for, and repair_job is due
--         {"OK", "acknowledged"} its job goes on: nothing is changed
--         {"OK", "gone"}         it does not lie there any more

local job, node_id, tag = read_job(ARGV[2]), ARGV[5], ARGV[6]
local is_complete = job.where ~= ''

local function take()
  if tag == '' then return redis.call('LREM', ARGV[7], -1, ARGV[3]) == 1 end
  redis.call('ZREM', key.node_unacked_index(node_id), tag)
  return redis.call('HDEL', key.node_unacked(node_id), tag) == 1
end

write_even_without_memory()
if tag ~= '' and redis.call('SISMEMBER', key.node_acked(node_id), tag) == 1 then
  return {'OK', 'acknowledged'}
end
if not take() then return {'OK', 'gone'} end
if not is_complete then
  job.suffix = ARGV[4]
  if job.status ~= '' then redis.call('HSET', key.job(job.id), 'suffix', job.suffix) end
end
redis.call('RPUSH', parked_list(job), ARGV[3])
if job.status ~= 'lost' and ENDED[job.status] then settle_ended(job) end
return {'OK', is_complete and 'parked' or 'incomplete'}
