-- include: context
-- Agrees on the fleet's times with a process that registers a node. While a node lives, the fleet's times stay. Else
-- the caller's times become the fleet's.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times of the caller, see include/context.lua
--
-- Returns {"OK", the fleet's times}

local MOST_READ = 256  -- nodes that have just left

local function is_fleet_alive()
  for _, node_id in ipairs(redis.call('ZRANGEBYSCORE', key.nodes(), NOW - TTL.node, '+inf',
      'LIMIT', 0, MOST_READ)) do
    local node = attempt(redis.call, 'HMGET', key.node_info(node_id), 'online', 'instance') or {'true'}
    if node[1] == 'true' or node[2] ~= '' then return true end  -- else it has left in good order
  end
  return false
end

write_even_without_memory()
if not times_of_fleet or not is_fleet_alive() then
  redis.call('SET', key.times(), ARGV.times)
end
return {'OK', redis.call('GET', key.times())}
