-- include: heard
-- Whether a heartbeat has maintenance to do. Each kind of work of include/chores.lua is looked for here.

local PUNCTUAL = 100  -- ms by which a node that was asked to come may be late

-- Was another node asked to send a heartbeat in time for what is due at `soonest`? A node that was asked and is
-- late does not count.
local function is_another_asked(node_id, soonest)
  local asked = redis.call('HMGET', key.alarm(), 'node_id', 'at')
  local at = number(asked[2])
  return asked[1] ~= node_id and at <= soonest and NOW < at + PUNCTUAL
end

-- A job that has expired is discarded a second late, so that a node whose clock is a little behind finds it
-- expired too.
local function expired_before() return NOW - 1000 end

-- May this heartbeat have to do something: maintenance that is due, or messages in the lists of the node's queue?
local function is_needed(node_id, queue)
  if redis.call('EXISTS', key.rescues(), key.lost(), key.relinking(), unpack(queue)) > 0 then return true end
  -- Nodes that have been away for long stand below zero, those that fell silent above.
  if redis.call('ZCOUNT', key.nodes(), TTL.history - NOW, NOW - TTL.node - 1) > 0 then return true end
  if redis.call('EXISTS', key.expiring(), key.delayed()) == 0 then return false end
  if redis.call('ZCOUNT', key.expiring(), '-inf', expired_before()) > 0 then return true end
  local soonest = tonumber(redis.call('ZRANGE', key.delayed(), 0, 0, 'WITHSCORES')[2])
  return soonest ~= nil and (soonest <= NOW or not is_another_asked(node_id, soonest))
end
