-- include: rescue
-- Places jobs of a node that is gone, or of an earlier process of a node, after their messages were moved to the jobs'
-- own lists. If no job is named, all messages were moved: then decides about the node's other jobs. It is safe to call
-- it again, also after the node has come back: then it places only jobs that the node has not claimed.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] node_id
-- ARGV[3...] job_ids whose messages were moved, at most 100, the oldest first. If there are none, the call
--         decides about at most 100 of the other jobs
--
-- Returns {"OK", jobs placed, jobs lost, jobs that the node still has}

local node_id, job_ids = ARGV.node_id, {ARGV.job_ids}
local placed, lost = 0, 0

write_even_without_memory()
local gone = is_gone(node_id)
local suspects = gone and #job_ids > 0 and read_suspects(node_id)

-- Places a job whose message was moved, if it is the node's and may run elsewhere.
local function place_moved(job)
  if job.status ~= 'lost' and ENDED[job.status] then
    finalize_ended(job)
  elseif not gone and job.node_id == node_id and job.status == 'dispatched' then
    place_unassigned(job)
    placed = placed + 1
  elseif gone and redis.call('ZSCORE', key.node_jobs(node_id), job.id) then
    if place_rescued_job(job, suspects) then placed = placed + 1 else lost = lost + 1 end
  end
end

for _, job_id in ipairs(job_ids) do
  local job = attempt(read_job, job_id)
  if job and has_own_message(job) then place_moved(job) end
end
if not gone then
  redis.call('ZREM', key.rescues(), node_id)
  return {'OK', placed, lost, redis.call('ZCARD', key.node_jobs(node_id))}
end
update_free_sets(node_id)
local left = redis.call('ZCARD', key.node_jobs(node_id))
if left == 0 or #job_ids == 0 then
  local more_placed, more_lost = rescue_node(node_id)
  placed, lost = placed + more_placed, lost + more_lost
  left = redis.call('ZCARD', key.node_jobs(node_id))
end
-- This caller continues the rescue. Another caller gets it only after RESCUE_PAUSE.
if left > 0 then redis.call('ZADD', key.rescues(), NOW + RESCUE_PAUSE, node_id) end
return {'OK', placed, lost, left}
