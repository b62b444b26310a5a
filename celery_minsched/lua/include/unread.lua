-- include: context
-- A node that takes each message as soon as it comes leaves none in its queue. A message that lies there beat
-- after beat is evidence that the node's worker is stuck, whatever the worker reports.

local UNREAD_GRACE = 4000  -- ms more than node_ttl: the worker may find out first that it is stuck

-- Is there such evidence? `seen` is the message that an earlier beat found, and for how long. The time
-- between two beats counts as a quarter of node_ttl at most, which is the longest interval: Redis itself may
-- have been paused.
local function is_left_unread(node_id, seen, seen_ms, last_heartbeat)
  if redis.call('EXISTS', key.node_queue(node_id)) == 0 then
    if seen then redis.call('HDEL', key.node_info(node_id), 'unread', 'unread_ms') end
    return false
  end
  -- The end of a message has its delivery tag.
  local next_message = redis.call('LINDEX', key.node_queue(node_id), -1)
  local unread, unread_ms = redis.sha1hex(string.sub(next_message, -1024)), 0
  if unread == seen then
    unread_ms = number(seen_ms) + math.min(NOW - number(last_heartbeat or NOW), TTL.node / 4)
  end
  redis.call('HSET', key.node_info(node_id), 'unread', unread, 'unread_ms', math.floor(unread_ms))
  return unread_ms > TTL.node + UNREAD_GRACE
end

-- Returns the state of a node that reports that it takes jobs: "stuck" by evidence, or "". It stays stuck for a
-- lease: its queue gets no message, and so cannot show that the node reads again.
local function state_by_evidence(node_id, takes_at_once, seen, seen_ms, last_heartbeat, stuck_until)
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
