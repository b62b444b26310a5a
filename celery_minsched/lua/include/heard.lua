-- include: context
-- When the nodes sent their last heartbeats, and whether their silence counts.

-- The time of a node's last heartbeat. A time in the future is stored anew, so that it gets older from now on.
local function heard_at(node_id, last_heartbeat)
  local at = clamp(last_heartbeat)
  if number(last_heartbeat) > NOW then
    redis.call('HSET', key.node_info(node_id), 'last_heartbeat_ts', at)
    redis.call('ZADD', key.nodes(), 'XX', at, node_id)
  end
  return at
end

-- Notes a heartbeat of any node, unless another one came just before. Returns two things: whether heartbeats have
-- arrived for longer than a node may be silent (after Redis was away, all nodes look silent), and whether the clock
-- was set back since.
local function note_heartbeat()
  local heard = redis.call('HMGET', key.heard(), 'last', 'since', 'set_back')
  local last, since, set_back = number(heard[1]), clamp(heard[2] or NOW), clamp(heard[3])
  if last > NOW then set_back = NOW end
  if NOW - last > 0.75 * TTL.node then since = NOW end
  if last > NOW or NOW - last > TTL.node / 16 then
    redis.call('HSET', key.heard(), 'last', NOW, 'since', since, 'set_back', set_back)
    redis.call('PEXPIRE', key.heard(), TTL.history)
  end
  return NOW - since > TTL.node, NOW - set_back <= TTL.node
end

-- Does a node's silence count? After Redis was away it does not, until heartbeats have arrived for as long as a
-- node may be silent. If no heartbeat arrives at all, that time counts from the first call that asks.
local silence_counts
local function does_silence_count()
  if silence_counts ~= nil then return silence_counts end
  local heard = redis.call('HMGET', key.heard(), 'last', 'since', 'missed')
  local last, since, missed = clamp(heard[1]), clamp(heard[2]), clamp(heard[3])
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
