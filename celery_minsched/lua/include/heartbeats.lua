-- include: context
-- The times of last heartbeats, and whether a node's silence counts.

-- The time of a node's last heartbeat. If it is in the future, stores the current time instead, so that it gets older
-- from now on.
local function correct_last_heartbeat(node_id, last_heartbeat)
  local at = clamp(last_heartbeat)
  if number(last_heartbeat) > NOW then
    redis.call('HSET', key.node_info(node_id), 'last_heartbeat_ts', at)
    redis.call('ZADD', key.nodes(), 'XX', at, node_id)
  end
  return at
end

-- Records a heartbeat of any node, unless another one arrived just before. Returns two booleans:
-- - Have heartbeats arrived for longer than node_ttl? After Redis was away, all nodes look silent.
-- - Was the clock set back less than node_ttl ago?
local function record_heartbeat()
  local record = redis.call('HMGET', key.heard(), 'last', 'since', 'set_back')
  local last, since, set_back = number(record[1]), clamp(record[2] or NOW), clamp(record[3])
  if last > NOW then set_back = NOW end
  if NOW - last > 0.75 * TTL.node then since = NOW end
  if last > NOW or NOW - last > TTL.node / 16 then
    redis.call('HSET', key.heard(), 'last', NOW, 'since', since, 'set_back', set_back)
    redis.call('PEXPIRE', key.heard(), TTL.history)
  end
  return NOW - since > TTL.node, NOW - set_back <= TTL.node
end

-- Does a node's silence count? After Redis was away, it counts only when heartbeats have arrived for node_ttl. If no
-- heartbeat arrives at all, node_ttl counts from the first call that asks.
local silence_counts
local function does_silence_count()
  if silence_counts ~= nil then return silence_counts end
  local record = redis.call('HMGET', key.heard(), 'last', 'since', 'missed')
  local last, since, missed = clamp(record[1]), clamp(record[2]), clamp(record[3])
  if NOW - last <= 0.75 * TTL.node then
    silence_counts = NOW - since > TTL.node
  else
    if missed <= last then
      missed = NOW
      redis.call('HSET', key.heard(), 'missed', missed)
      redis.call('PEXPIRE', key.heard(), TTL.history)
    end
    silence_counts = NOW - missed > TTL.node
  end
  return silence_counts
end
