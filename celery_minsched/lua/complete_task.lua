-- include: assignment
-- Frees a job's slot and records how the job ended. In the same step, the first waiting job that this node can do gets
-- the slot. A second call changes nothing.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] job_id
-- ARGV[3] node_id
-- ARGV[4] status, "finished" or "failed"
-- ARGV[5] reason, "" if the status says enough
-- ARGV[6] delivery_tag of the job's message, which the node forgets; "" for none
-- ARGV[7] claim by which the node ran the job; "" or left out for none
--
-- Returns {"OK"}
--         {"ALREADY_ENDED"}   also if the node has claimed the job again since: this run was given up
--         {"NODE_MISMATCH", the node that has the job, "" for none}
--         {"UNKNOWN_JOB"}

local job, node_id, status, reason = read_job(ARGV.job_id), ARGV.node_id, ARGV.status, ARGV.reason

local claim = ARGV.claim or ''
local is_given_up = claim ~= '' and job.claim ~= '' and job.claim ~= claim
  and job.status == 'running' and job.node_id == node_id
if is_given_up then return {'ALREADY_ENDED'} end
if ARGV.delivery_tag ~= '' then forget_message(node_id, ARGV.delivery_tag) end
if job.status == '' then return {'UNKNOWN_JOB'} end
if job.node_id ~= node_id or UNASSIGNED[job.status] then
  return {'NODE_MISMATCH', UNASSIGNED[job.status] and '' or job.node_id}
end
-- A lost job may still end. Then its real end counts.
if ENDED[job.status] and job.status ~= 'lost' then return {'ALREADY_ENDED'} end

redis.call('ZREM', key.node_jobs(node_id), job.id)
redis.call('DEL', own_list(job))  -- a second copy of the message, after a lost connection
if job.status == 'lost' then redis.call('ZREM', key.lost(), job.id) end
end_job(job, status, reason)
if assign_waiting_jobs(node_id) == 0 then update_free_sets(node_id) end  -- an assignment updates them too
return {'OK'}
