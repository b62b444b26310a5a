-- include: context
-- Agrees on the fleet's times with a process that registers a node. While a node lives, the fleet's
-- stand. Else the caller's are the fleet's from now on.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua: the caller's
--
-- Returns {"OK", the fleet's times}

local MOST_LOOKS = 256  -- nodes that left just now

local function is_alive_fleet()
  for _, node_id in ipairs(redis.call('ZRANGEBYSCORE', key.nodes(), NOW - TTL.node, '+inf',
      'LIMIT', 0, MOST_LOOKS)) do
    local node = attempt(redis.call, 'HMGET', key.node_info(node_id), 'online', 'instance') or {'true'}
    if node[1] == 'true' or node[2] ~= '' then return true end  -- else it has left in good order
  end
  return false
end

write_even_without_memory()
if not times_of_fleet or not is_alive_fleet() then
  redis.call('SET', key.times(), ARGV[1])
end
return {'OK', redis.call('GET', key.times())}
