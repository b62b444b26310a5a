-- include: rescue
-- Returns one node that is gone, for a caller that reads messages. The caller moves the node's messages to the jobs'
-- own lists, and then calls rescue_node. No other caller gets the node for ten seconds.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
--
-- Returns {"OK", node_id, "dead" | "left"}
--         {"OK", "", ""}   no rescue is due

write_even_without_memory()
for _, node_id in ipairs(due_members(key.rescues(), RESCUE_CLAIM, MOST_NODES)) do
  redis.call('ZADD', key.rescues(), NOW + RESCUE_CLAIM, node_id)
  local is_due, is_dead = attempt(function() return is_gone(node_id), has_died(node_id) end)
  if is_due then return {'OK', node_id, is_dead and 'dead' or 'left'} end
  if is_due == false then redis.call('ZREM', key.rescues(), node_id) end
end
return {'OK', '', ''}
