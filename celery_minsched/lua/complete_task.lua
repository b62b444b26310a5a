-- include: fill
-- Frees a job's slot and records how the job ended; the first in line that this node can do takes
-- the slot in the same step. A second call changes nothing.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] job_id       ARGV[3] node_id
-- ARGV[4] status, "finished" or "failed"     ARGV[5] reason, "" where the status says it all
-- ARGV[6] delivery tag of the job's message, "" for none: the node forgets the message
-- ARGV[7] the claim by which the node ran the job, "" or left out for none
--
-- Returns {"OK"}
--         {"ALREADY_ENDED"}   also if the node has claimed the job again: this run was given up before
--         {"NODE_MISMATCH", the node that the job belongs to, "" for none}
--         {"UNKNOWN_JOB"}

local job, node_id, status, reason = read_job(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]

local claim = ARGV[7] or ''
local is_given_up = claim ~= '' and job.claim ~= '' and job.claim ~= claim
  and job.status == 'running' and job.node_id == node_id
if is_given_up then return {'ALREADY_ENDED'} end
if ARGV[6] ~= '' then forget_message(node_id, ARGV[6]) end
if job.status == '' then return {'UNKNOWN_JOB'} end
if job.node_id ~= node_id or PARKED[job.status] then
  return {'NODE_MISMATCH', PARKED[job.status] and '' or job.node_id}
end
-- A job that was given up as lost and then ends after all has ended as it says.
if ENDED[job.status] and job.status ~= 'lost' then return {'ALREADY_ENDED'} end

redis.call('ZREM', key.node_jobs(node_id), job.id)
redis.call('DEL', parked_list(job))  -- a second copy of its message, after a lost connection
if job.status == 'lost' then redis.call('ZREM', key.lost(), job.id) end
end_job(job, status, reason)
if fill_node(node_id) == 0 then place_node(node_id) end  -- it was placed with the job that it got
return {'OK'}
