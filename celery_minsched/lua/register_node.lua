-- include: reindex
-- Registers a node, or changes its registration: its slots, capabilities, pools and language pairs. The node leaves the
-- indexes and language pairs that it no longer advertises. It keeps the jobs that it holds. In the same step, waiting
-- jobs that it can do take its free slots.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] node_id
-- ARGV[3] instance: the process that is the node
-- ARGV[4] max_jobs
-- ARGV[5] online, "true" or "false"
-- ARGV[6] advertised_indexes: a line "pool<TAB>" for each pool, a line "pool<TAB>capability" for each capability in it
-- ARGV[7] language_pairs: a line "pool<TAB>src:tgt" for each pair
-- ARGV[8] concurrency: the most jobs that it runs at once; max_jobs if left out
-- ARGV[9...] description (field, value): texts for operators, such as cap_json, which the node's record keeps as they
--   are. The list of keys names these fields, at node:info:<node>
--
-- Returns {"OK", taken slots}
--         {"NODE_ID_IN_USE", the instance that has the id, ms since its last heartbeat}

local node_id, instance, max_jobs, online = ARGV.node_id, ARGV.instance, ARGV.max_jobs, ARGV.online
local advertised_indexes, language_pairs = ARGV.advertised_indexes, ARGV.language_pairs
local concurrency = ARGV.concurrency or max_jobs

local before = redis.call('HMGET', key.node_info(node_id),
  'instance', 'last_heartbeat_ts', 'online', 'term', 'turn')
local age = NOW - correct_last_heartbeat(node_id, before[2])
if before[1] and before[1] ~= '' and before[1] ~= instance and age <= TTL.node then
  return {'NODE_ID_IN_USE', before[1], age}
end

write_even_without_memory()  -- first: a caller without write access is refused here, before any change
redis.call('ZADD', key.nodes(), NOW, node_id)
leave_indexes(node_id)
-- Another process has become the node, or Redis has lost the node.
if before[1] ~= instance or not before[4] then
  if (before[1] or '') ~= '' then record_suspects(node_id) end  -- the earlier process has died
  start_term(node_id)
end
for field, value in ARGV.description do redis.call('HSET', key.node_info(node_id), field, value) end
redis.call('HSET', key.node_info(node_id),
  'online', online, 'state', '', 'instance', instance, 'max_jobs', max_jobs,
  'concurrency', concurrency,
  'offers', advertised_indexes, 'speaks', language_pairs,
  'last_heartbeat_ts', NOW, 'registered_ts', NOW, 'turn', string.format('%.0f', number(before[5])),
  'turn_base', string.format('%.0f', last_chosen_base(number(redis.call('GET', key.turn())))))
redis.call('HDEL', key.node_info(node_id), 'unread', 'unread_ms', 'stuck_until')
redis.call('HSETNX', key.node_info(node_id), 'load_json', '{}')
redis.call('HSETNX', key.node_info(node_id), 'draining', 'false')
enter_indexes(node_id, advertised_indexes)
redis.call('DEL', key.node_searches(node_id))
for pool, pair in each_pair(language_pairs) do serve_pair(pair, pool, node_id) end
update_free_sets(node_id)
if online == 'true' and before[3] ~= 'true' then emit_event('node_joined', 'node', node_id) end
release_lines_of_node(node_id)
reindex_changed_pairs()
assign_waiting_jobs(node_id)
return {'OK', redis.call('ZCARD', key.node_jobs(node_id))}
