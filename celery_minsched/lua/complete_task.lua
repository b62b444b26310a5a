-- include: job
-- Frees a job's slot and records how the job ended. A second call changes nothing.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] job_id       ARGV[2] node_id
-- ARGV[3] status, "finished" or "failed"     ARGV[4] reason, "" where the status says it all
-- ARGV[5] history_ttl, ms
--
-- Returns {"OK"}  {"ALREADY_ENDED"}
--         {"NODE_MISMATCH", the node that the job belongs to}
--         {"UNKNOWN_JOB"}

local job_id, node_id, status, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local history_ttl = tonumber(ARGV[5])

local job = redis.call('HMGET', key.job(job_id), 'node_id', 'status')
if not job[2] then return {'UNKNOWN_JOB'} end
if job[1] ~= node_id then return {'NODE_MISMATCH', job[1]} end
-- A job that was given up as lost and then ends after all has ended as it says.
if ENDED[job[2]] and job[2] ~= 'lost' then return {'ALREADY_ENDED'} end

redis.call('ZREM', key.node_jobs(node_id), job_id)
end_job(job_id, status, reason, now_ms(), history_ttl)
place_node(node_id)
return {'OK'}
