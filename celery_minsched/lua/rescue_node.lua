-- include: rescue
-- The messages of a node that is gone, or of a process of it, were moved to their jobs' own lists: places
-- those jobs, and gives up the others. Safe to call again, and while the node is back: then only jobs
-- that it has not claimed are placed.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] node_id
-- ARGV[3...] jobs whose messages were moved
--
-- Returns {"OK", jobs placed, jobs lost, jobs that the node still has}

local node_id = ARGV[2]
local placed, lost = 0, 0

write_even_without_memory()
for i = 3, #ARGV do
  local job = read_job(ARGV[i])
  if job.status ~= 'lost' and ENDED[job.status] and is_parked(job) then settle_ended(job) end
end
if is_gone(node_id) then
  placed, lost = rescue_node(node_id)
else
  redis.call('ZREM', key.rescues(), node_id)
  for i = 3, #ARGV do
    local job = read_job(ARGV[i])
    if job.node_id == node_id and job.status == 'dispatched' and is_parked(job) then
      place_parked(job)
      placed = placed + 1
    end
  end
end
return {'OK', placed, lost, redis.call('ZCARD', key.node_jobs(node_id))}
