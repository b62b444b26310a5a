-- include: maintenance
-- Marks a node dead before node_ttl has passed. An operator uses it for a node that is known to be gone. The node
-- leaves dispatch. The next heartbeat of another node starts its rescue.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] node_id
-- ARGV[3] least_silence_ms: for how long the node must have been silent. The minimum is two of its heartbeat intervals,
--         since a live node should be drained instead
--
-- Returns {"OK", jobs that hold its slots}
--         {"NODE_ID_IN_USE", its instance, ms since its last heartbeat}
--         {"UNKNOWN_NODE"}

local node_id = ARGV.node_id

local node = redis.call('HMGET', key.node_info(node_id), 'instance', 'last_heartbeat_ts', 'interval_ms')
if not node[2] then return {'UNKNOWN_NODE'} end
local last_heartbeat = correct_last_heartbeat(node_id, node[2])
local silence = NOW - last_heartbeat
if silence < math.max(tonumber(ARGV.least_silence_ms), 2 * number(node[3])) then
  return {'NODE_ID_IN_USE', node[1] or '', silence}
end
write_even_without_memory()
mark_node_dead(node_id, last_heartbeat)
return {'OK', redis.call('ZCARD', key.node_jobs(node_id))}
