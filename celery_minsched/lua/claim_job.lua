-- include: claim
-- A node that received a job's message asks whether to run the job. It runs the job if it holds the job's slot.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] job_id
-- ARGV[3] node_id
-- ARGV[4] delivery_tag of the message
-- ARGV[5] claim: a name that differs from those of earlier claims of the same job
-- ARGV[6] taken: "true" if the message is the latest in the list of messages that the node takes. Then the script moves
--         it to the unacknowledged messages, with any answer. "false" or left out if the caller does that
--
-- Returns {"OK", "run", pool, chosen_by, ms in line, the node's term}   the node holds the job's slot
--         {"OK", "discard"}    the job was revoked or has expired: the worker reports that and runs nothing
--         {"OK", "drop"}       the job has ended, or it is at another node: this message is a second copy
--         {"OK", "hand_back"}  the slot has expired, and the node has no other: place the job again
--         {"OK", "full"}       the same for a job whose record Redis has lost: ask again later
--         {"OK", "not_taken"}  `taken` is "true", and the latest message in that list does not have this delivery tag.
--                              Nothing was changed: add the message to the unacknowledged ones, and ask again without
--                              `taken`

local job, node_id = read_job(ARGV.job_id), ARGV.node_id

write_even_without_memory()
if ARGV.taken == 'true' and not move_taken_message(node_id, ARGV.delivery_tag, job.id) then
  return {'OK', 'not_taken'}
end
local was_lost = job.status == 'lost'
if job.status ~= '' and (job.node_id ~= node_id or UNASSIGNED[job.status]) then return {'OK', 'drop'} end
if ENDED[job.status] and not was_lost then
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
redis.call('HSET', key.job(job.id), 'node_id', node_id, state_fields(ARGV.delivery_tag, ARGV.claim))
if was_lost then
  redis.call('HDEL', key.job(job.id), 'ended_ts', 'reason')
  redis.call('ZREM', key.lost(), job.id)
end
if not has_slot then
  expire_record(job)
  update_free_sets(node_id)
end
return {'OK', 'run', place_of_claim(job.id, node_id)}
