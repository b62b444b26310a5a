-- include: rescue
-- Jobs that wait and will not run. Each message goes to a node, whose worker reports the end to the caller.

local MOST_IN_QUEUE = 100  -- messages in a node's queue, up to which the node is handed such a message

-- The worker reads each such message before the jobs behind it.
local function has_room(node_id) return redis.call('LLEN', key.node_queue(node_id)) < MOST_IN_QUEUE end

-- Discards a revoked job that waits. Its message goes to this node. If this node has no room, it goes to a node that is
-- heard later. Returns whether the message was there.
local function revoke_job(job, node_id)
  if has_room(node_id) and bytes_left > 0 then return discard_job(job, node_id, 'revoked') end
  if not is_parked(job) then return false end
  if job.status == 'waiting' then give_up_place(job) end
  redis.call('ZREM', key.delayed(), job.id)
  redis.call('HSET', key.job(job.id), 'status', 'parked', 'reason', 'revoked')
  redis.call('ZADD', key.expiring(), 0, job.id)
  return true
end
