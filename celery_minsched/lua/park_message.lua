-- include: place
-- Moves the message of a job from its node to the job's own list, in one step. If the job has ended, the message
-- is deleted, or it waits for a node that reports the end.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] job_id
-- ARGV[3] message to put into the job's own list
-- ARGV[4] priority_suffix of the list for the message's priority. It counts if Redis has lost the job's demand
-- ARGV[5] node_id
-- ARGV[6] delivery_tag of an unacknowledged message, "" if the message is in a list
-- ARGV[7] source_list: key of that list, which has the same message
--
-- Returns {"OK", "parked"}
--         {"OK", "incomplete"}    moved, but Redis has lost the job's demand: call repair_job
--         {"OK", "acknowledged"}  the job continues, and nothing was changed
--         {"OK", "gone"}          the message is no longer there

local job, node_id, delivery_tag = read_job(ARGV.job_id), ARGV.node_id, ARGV.delivery_tag
local is_complete = job.where ~= ''

local function take()
  if delivery_tag == '' then return redis.call('LREM', ARGV.source_list, -1, ARGV.message) == 1 end
  redis.call('ZREM', key.node_unacked_index(node_id), delivery_tag)
  return redis.call('HDEL', key.node_unacked(node_id), delivery_tag) == 1
end

write_even_without_memory()
if delivery_tag ~= '' and redis.call('SISMEMBER', key.node_acked(node_id), delivery_tag) == 1 then
  return {'OK', 'acknowledged'}
end
if not take() then return {'OK', 'gone'} end
if not is_complete then
  job.suffix = ARGV.priority_suffix
  if job.status ~= '' then redis.call('HSET', key.job(job.id), 'suffix', job.suffix) end
end
redis.call('RPUSH', own_list(job), ARGV.message)
if job.status ~= 'lost' and ENDED[job.status] then finalize_ended(job) end
return {'OK', is_complete and 'parked' or 'incomplete'}
