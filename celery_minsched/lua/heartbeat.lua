-- include: node
-- include: job
-- A node's sign of life: its load, and which jobs it holds. Where it and Redis differ on the jobs,
-- the difference is mended: the node's list renews their leases and rebuilds what Redis lost; a
-- reservation that the node never confirmed lapses. Nodes that fell silent are taken out of
-- dispatch, and forgotten when they have been away for long, a few of them a call.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] node_id      ARGV[2] instance, "" where only one process can be the node
-- ARGV[3] online, "true" or "false"          ARGV[4] load_json     ARGV[5] load, 0..100
-- ARGV[6] node_ttl, ms ARGV[7] lease, ms     ARGV[8] history_ttl, ms
-- ARGV[9] "jobs" where the job ids follow, "" where the node cannot tell just now
-- ARGV[10...] job ids
--
-- Returns {"OK", slots taken, draining "true"/"false", a job that is not the node's, ...}
--         {"UNKNOWN_NODE"}

local SWEEP = 20  -- silent nodes, or lapsed jobs, a call

local node_id, instance, online = ARGV[1], ARGV[2], ARGV[3]
local load_json, load = ARGV[4], ARGV[5]
local node_ttl, lease, history_ttl = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local now = now_ms()

local node = redis.call('HMGET', key.node_info(node_id), 'instance', 'draining', 'max_jobs')
if not node[3] or (instance ~= '' and node[1] ~= '' and node[1] ~= instance) then
  return {'UNKNOWN_NODE'}
end

redis.call('HSET', key.node_info(node_id), 'online', online, 'load_json', load_json, 'load', load,
  'last_heartbeat_ts', now)
if online == 'true' then
  if instance ~= '' then redis.call('HSET', key.node_info(node_id), 'instance', instance) end
else
  redis.call('HSET', key.node_info(node_id), 'instance', '')  -- gone: its id is free to take
end
redis.call('ZADD', key.nodes(), now, node_id)

local not_yours = {}
if ARGV[9] == 'jobs' then
  for i = 10, #ARGV do
    if not confirm_job(node_id, ARGV[i], now, lease, history_ttl) then
      not_yours[#not_yours + 1] = ARGV[i]
    end
  end
  lapse_jobs(node_id, now, history_ttl, SWEEP)
end
local taken = place_node(node_id)

-- A silent node stands at minus its last heartbeat once it is out of dispatch, so that the next
-- call meets the next ones.
for _, silent in ipairs(redis.call('ZRANGEBYSCORE', key.nodes(), 0, now - node_ttl - 1,
    'LIMIT', 0, SWEEP)) do
  local seen = tonumber(redis.call('ZSCORE', key.nodes(), silent))
  is_alive(silent, now, node_ttl)
  redis.call('ZADD', key.nodes(), -seen, silent)
end
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', key.nodes(), history_ttl - now, -1,
    'LIMIT', 0, SWEEP)) do
  if redis.call('EXISTS', key.node_jobs(gone)) == 0 then
    withdraw_offers(gone)
    redis.call('DEL', key.node_info(gone), key.node_runtime(gone))
    redis.call('ZREM', key.nodes(), gone)
  end
end

local answer = {'OK', taken, node[2] or 'false'}
for _, job_id in ipairs(not_yours) do answer[#answer + 1] = job_id end
return answer
