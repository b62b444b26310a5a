-- include: reindex
-- Takes a node out of dispatch, or returns it. A drained node finishes its jobs. Jobs that wait for it alone wait for
-- any node of their pools from now on. The node stays drained over a restart.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] node_id
-- ARGV[3] draining, "true" or "false"
--
-- Returns {"OK", taken slots}
--         {"UNKNOWN_NODE"}

local node_id, draining = ARGV.node_id, ARGV.draining

local was_draining = redis.call('HGET', key.node_info(node_id), 'draining')
if not was_draining then return {'UNKNOWN_NODE'} end
write_even_without_memory()
redis.call('HSET', key.node_info(node_id), 'draining', draining)
if was_draining ~= draining then
  emit_event(draining == 'true' and 'node_drained' or 'node_undrained', 'node', node_id)
end
local taken = update_free_sets(node_id)
if draining == 'true' then release_lines_of_node(node_id) else assign_waiting_jobs(node_id) end
return {'OK', taken}
