-- include: heartbeats
-- Does a heartbeat have maintenance to do? Each kind of work of include/maintenance.lua has a check here.

local WAKEUP_TOLERANCE = 100  -- ms by which a node may be late with a heartbeat that it was asked for

-- Was another node asked to send a heartbeat in time for the work that is due at `soonest`? A node that is late does
-- not count.
local function is_another_asked(node_id, soonest)
  local next_wakeup = redis.call('HMGET', key.alarm(), 'node_id', 'at')
  local at = number(next_wakeup[2])
  return next_wakeup[1] ~= node_id and at <= soonest and NOW < at + WAKEUP_TOLERANCE
end

-- An expired job is discarded a second late. So a node whose clock is a little behind finds it expired too.
local function expired_before() return NOW - 1000 end

-- May this heartbeat have to do something: maintenance that is due, or messages in the lists of the node's queue?
local function is_maintenance_due(node_id, queue_lists)
  if redis.call('EXISTS', key.rescues(), key.lost(), key.relinking(), unpack(queue_lists)) > 0 then return true end
  -- Nodes that were silent for history_ttl stand below zero. Nodes that were silent for node_ttl stand above.
  if redis.call('ZCOUNT', key.nodes(), TTL.history - NOW, NOW - TTL.node - 1) > 0 then return true end
  if redis.call('EXISTS', key.expiring(), key.delayed()) == 0 then return false end
  if redis.call('ZCOUNT', key.expiring(), '-inf', expired_before()) > 0 then return true end
  local soonest = tonumber(redis.call('ZRANGE', key.delayed(), 0, 0, 'WITHSCORES')[2])
  return soonest ~= nil and (soonest <= NOW or not is_another_asked(node_id, soonest))
end
