-- include: context
-- Detects a stuck worker by its queue. Some nodes take each message as soon as it arrives. If a message stays in such a
-- node's queue over several heartbeats, the node's worker is stuck, even if it reports otherwise.

local UNREAD_GRACE = 4000  -- ms more than node_ttl: the worker may find out first that it is stuck

-- Has a message stayed in the node's queue for too long? `seen` identifies the message that an earlier heartbeat found.
-- `seen_ms` is for how long it was there. The time between two heartbeats counts as a quarter of node_ttl at most, the
-- longest interval: Redis itself may have been paused.
local function is_left_unread(node_id, seen, seen_ms, last_heartbeat)
  if redis.call('EXISTS', key.node_queue(node_id)) == 0 then
    if seen then redis.call('HDEL', key.node_info(node_id), 'unread', 'unread_ms') end
    return false
  end
  -- The delivery tag is at the end of a message.
  local next_message = redis.call('LINDEX', key.node_queue(node_id), -1)
  local unread, unread_ms = redis.sha1hex(string.sub(next_message, -1024)), 0
  if unread == seen then
    unread_ms = number(seen_ms) + math.min(NOW - number(last_heartbeat or NOW), TTL.node / 4)
  end
  redis.call('HSET', key.node_info(node_id), 'unread', unread, 'unread_ms', math.floor(unread_ms))
  return unread_ms > TTL.node + UNREAD_GRACE
end

-- The state of a node that reports that it takes jobs: "stuck" by its queue, or "". It stays stuck for the length of a
-- lease. Its queue gets no message meanwhile, so the queue cannot show that the worker reads again.
local function state_by_queue(node_id, takes_at_once, seen, seen_ms, last_heartbeat, stuck_until)
  if takes_at_once and is_left_unread(node_id, seen, seen_ms, last_heartbeat) then
    redis.call('HSET', key.node_info(node_id), 'stuck_until', NOW + TTL.lease)
    redis.call('HDEL', key.node_info(node_id), 'unread', 'unread_ms')
    return 'stuck'
  end
  if not stuck_until then return '' end
  if NOW < number(stuck_until) then return 'stuck' end
  redis.call('HDEL', key.node_info(node_id), 'stuck_until')
  return ''
end
