-- include: rescue
-- Waiting jobs that were revoked or have expired. A node gets each message, and its worker reports the end to the
-- caller.

local MOST_IN_QUEUE = 100  -- messages in a node's queue, up to which the node gets another message of this kind

-- Has the node's queue room? Its worker reads these messages before the jobs behind them.
local function has_room(node_id) return redis.call('LLEN', key.node_queue(node_id)) < MOST_IN_QUEUE end

-- Discards a revoked job that waits. Its message goes to this node. If this node's queue has no room, the message goes
-- to another node at a later heartbeat. Returns whether the message was there.
local function revoke_job(job, node_id)
  if has_room(node_id) and bytes_left > 0 then return discard_job(job, node_id, 'revoked') end
  if not has_own_message(job) then return false end
  stop_waiting(job)
  await_discard(job, 'revoked')
  return true
end
