-- include: chores
-- An operator knows that a node is gone and does not want to wait for its time to live: it leaves
-- dispatch, and the next node that is heard takes on its rescue.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua     ARGV[2] node_id
-- ARGV[3] ms for which the node must have been silent; two of its intervals at least. A live node is drained, not
--         declared dead
--
-- Returns {"OK", jobs that hold its slots}
--         {"NODE_ID_IN_USE", its instance, ms since its last heartbeat}
--         {"UNKNOWN_NODE"}

local node_id = ARGV[2]

local node = redis.call('HMGET', key.node_info(node_id), 'instance', 'last_heartbeat_ts', 'interval_ms')
if not node[2] then return {'UNKNOWN_NODE'} end
local heard = heard_at(node_id, node[2])
local silent = NOW - heard
if silent < math.max(tonumber(ARGV[3]), 2 * number(node[3])) then return {'NODE_ID_IN_USE', node[1] or '', silent} end
write_even_without_memory()
bury_node(node_id, heard)
return {'OK', redis.call('ZCARD', key.node_jobs(node_id))}
