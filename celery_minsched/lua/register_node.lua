-- include: node
-- (Re)announces a node: its slots, capabilities, pools and language pairs. What it offered before
-- and does not offer now, it is taken out of. The jobs that it holds stay its own.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] node_id      ARGV[2] instance: the process that is the node
-- ARGV[3] max_jobs     ARGV[4] online, "true" or "false"
-- ARGV[5] cap_json     ARGV[6] pools_json, both as given
-- ARGV[7] offers, a line "pool<TAB>" a pool and a line "pool<TAB>capability" a capability in it
-- ARGV[8] speaks, a line "pool<TAB>src:tgt" a language pair
-- ARGV[9] node_ttl, ms
--
-- Returns {"OK", slots taken}
--         {"NODE_ID_IN_USE", the instance that holds it, ms since its last heartbeat}

local node_id, instance, max_jobs, online = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local cap_json, pools_json, offers, speaks = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local node_ttl = tonumber(ARGV[9])
local now = now_ms()

local held = redis.call('HMGET', key.node_info(node_id), 'instance', 'last_heartbeat_ts')
local age = now - tonumber(held[2] or 0)
if held[1] and held[1] ~= '' and held[1] ~= instance and age <= node_ttl then
  return {'NODE_ID_IN_USE', held[1], age}
end

withdraw_offers(node_id)
redis.call('HSET', key.node_info(node_id),
  'online', online, 'instance', instance, 'max_jobs', max_jobs,
  'cap_json', cap_json, 'pools_json', pools_json, 'offers', offers, 'speaks', speaks,
  'last_heartbeat_ts', now, 'registered_ts', now)
redis.call('HSETNX', key.node_info(node_id), 'load_json', '{}')
redis.call('HSETNX', key.node_info(node_id), 'draining', 'false')
redis.call('ZADD', key.nodes(), now, node_id)
for pool, capability in lines(offers) do
  redis.call('SADD', members_key(pool, capability), node_id)
  redis.call('SADD', key.pools(), pool)
end
for pool, pair in lines(speaks) do
  serve_pair(pair, pool, node_id)
end
return {'OK', place_node(node_id)}
