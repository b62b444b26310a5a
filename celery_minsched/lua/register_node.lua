-- include: relink
-- (Re)announces a node: its slots, capabilities, pools and language pairs. What it offered before
-- and does not offer now, it is taken out of. The jobs that it holds stay its own. Jobs that wait
-- for what it offers take its free slots in the same step.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] node_id      ARGV[3] instance: the process that is the node
-- ARGV[4] max_jobs     ARGV[5] online, "true" or "false"
-- ARGV[6] cap_json     ARGV[7] pools_json, both as given
-- ARGV[8] offers, a line "pool<TAB>" a pool and a line "pool<TAB>capability" a capability in it
-- ARGV[9] speaks, a line "pool<TAB>src:tgt" a language pair
-- ARGV[10] concurrency: the most jobs that it runs at once, max_jobs if it is not given
--
-- Returns {"OK", slots taken}
--         {"NODE_ID_IN_USE", the instance that holds it, ms since its last heartbeat}

local node_id, instance, max_jobs, online = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local cap_json, pools_json, offers, speaks = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local concurrency = ARGV[10] or max_jobs

local held = redis.call('HMGET', key.node_info(node_id),
  'instance', 'last_heartbeat_ts', 'online', 'term', 'turn')
local age = NOW - heard_at(node_id, held[2])
if held[1] and held[1] ~= '' and held[1] ~= instance and age <= TTL.node then
  return {'NODE_ID_IN_USE', held[1], age}
end

write_even_without_memory()  -- first: a caller that may not write is refused here, with nothing done
redis.call('ZADD', key.nodes(), NOW, node_id)
withdraw_offers(node_id)
-- Another process is the node now, or Redis has lost the node.
if held[1] ~= instance or not held[4] then
  if (held[1] or '') ~= '' then note_suspects(node_id) end  -- that process has died
  end_term(node_id)
end
redis.call('HSET', key.node_info(node_id),
  'online', online, 'state', '', 'instance', instance, 'max_jobs', max_jobs,
  'concurrency', concurrency,
  'cap_json', cap_json, 'pools_json', pools_json, 'offers', offers, 'speaks', speaks,
  'last_heartbeat_ts', NOW, 'registered_ts', NOW, 'turn', string.format('%.0f', number(held[5])),
  'turn_base', string.format('%.0f', turn_base(number(redis.call('GET', key.turn())))))
redis.call('HDEL', key.node_info(node_id), 'unread', 'unread_ms', 'stuck_until')
redis.call('HSETNX', key.node_info(node_id), 'load_json', '{}')
redis.call('HSETNX', key.node_info(node_id), 'draining', 'false')
enter_offers(node_id, offers)
redis.call('DEL', key.node_searches(node_id))
for pool, pair in lines(speaks) do serve_pair(pair, pool, node_id) end
place_node(node_id)
if online == 'true' and held[3] ~= 'true' then tell('node_joined', 'node', node_id) end
open_lines(node_id)
relink_changed()
fill_node(node_id)
return {'OK', redis.call('ZCARD', key.node_jobs(node_id))}
