-- include: relink
-- Takes a node out of dispatch, or back into it. A drained node finishes its jobs. Jobs that wait for it alone
-- wait for any node of their pools from now on. It stays drained over a restart.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] node_id      ARGV[3] draining, "true" or "false"
--
-- Returns {"OK", slots still taken}
--         {"UNKNOWN_NODE"}

local node_id, draining = ARGV[2], ARGV[3]

local was = redis.call('HGET', key.node_info(node_id), 'draining')
if not was then return {'UNKNOWN_NODE'} end
write_even_without_memory()
redis.call('HSET', key.node_info(node_id), 'draining', draining)
if was ~= draining then
  tell(draining == 'true' and 'node_drained' or 'node_undrained', 'node', node_id)
end
local taken = place_node(node_id)
if draining == 'true' then open_lines(node_id) else fill_node(node_id) end
return {'OK', taken}
