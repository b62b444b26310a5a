-- include: rescue
-- Places jobs of a node that is gone, or of a process of it, whose messages were moved to the jobs' own lists. If no
-- job is named, all messages were moved: settles the other jobs of the node that is gone. Safe to call again, and
-- while the node is back: then only jobs that it has not claimed are placed.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] node_id
-- ARGV[3...] jobs whose messages were moved, 100 at most, the oldest first. If there are none, 100 of the other jobs
--         are settled at most
--
-- Returns {"OK", jobs placed, jobs lost, jobs that the node still has}

local node_id = ARGV[2]
local placed, lost = 0, 0

write_even_without_memory()
local gone = is_gone(node_id)
local suspects = gone and ARGV[3] and read_suspects(node_id)

-- Places a job whose message was moved, if it is the node's and may run elsewhere.
local function place_moved(job)
  if job.status ~= 'lost' and ENDED[job.status] then
    settle_ended(job)
  elseif not gone and job.node_id == node_id and job.status == 'dispatched' then
    place_parked(job)
    placed = placed + 1
  elseif gone and redis.call('ZSCORE', key.node_jobs(node_id), job.id) then
    if place_anew(job, suspects) then placed = placed + 1 else lost = lost + 1 end
  end
end

for i = 3, #ARGV do
  local job = attempt(read_job, ARGV[i])
  if job and is_parked(job) then place_moved(job) end
end
if not gone then
  redis.call('ZREM', key.rescues(), node_id)
  return {'OK', placed, lost, redis.call('ZCARD', key.node_jobs(node_id))}
end
place_node(node_id)
local left = redis.call('ZCARD', key.node_jobs(node_id))
if left == 0 or not ARGV[3] then
  local more_placed, more_lost = rescue_node(node_id)
  placed, lost = placed + more_placed, lost + more_lost
  left = redis.call('ZCARD', key.node_jobs(node_id))
end
-- This caller goes on with the rescue. Another one does so only after RESCUE_PAUSE.
if left > 0 then redis.call('ZADD', key.rescues(), NOW + RESCUE_PAUSE, node_id) end
return {'OK', placed, lost, left}
