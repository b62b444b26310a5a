-- include: demand
-- include: job
-- Resolves a demand to the least-loaded node with a free slot, takes the slot, records the job and
-- the session.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] session_id, "" for none            ARGV[2] pool, "" for none
-- ARGV[3] JSON list of "src:tgt": the pairs to look up
-- ARGV[4] JSON list of capabilities          ARGV[5] preferred node, "" for none
-- ARGV[6] task_id, "" for none               ARGV[7] token: repeats of one call have the same
-- ARGV[8] src_lang     ARGV[9] tgt_lang      ARGV[10] payload_json, stored and not read
-- ARGV[11] node_ttl, ms  ARGV[12] lease, ms  ARGV[13] history_ttl, ms  ARGV[14] session_ttl, ms
--
-- Returns {"OK", node_id, job_id, pool, chosen_by}
--         {"NO_POOL_FOR_LANG_PAIR"}          no pool, or not the one named, serves the pair
--         {"EMPTY_POOL", pool}               no node of the pool has what is asked for
--         {"NO_AVAILABLE_NODE"}              those that have it are full, draining or offline

local session_id, pool, preferred = ARGV[1], ARGV[2], ARGV[5]
local langs, capabilities = cjson.decode(ARGV[3]), cjson.decode(ARGV[4])
local task_id, token = ARGV[6], ARGV[7]
local src_lang, tgt_lang, payload_json = ARGV[8], ARGV[9], ARGV[10]
local node_ttl, lease = tonumber(ARGV[11]), tonumber(ARGV[12])
local history_ttl, session_ttl = tonumber(ARGV[13]), tonumber(ARGV[14])
local now = now_ms()

-- A call that is made again, because its answer was lost on the way, gets the same answer.
if task_id ~= '' and token ~= '' then
  local earlier = redis.call('GET', key.task(task_id))
  if earlier then
    local job = redis.call('HMGET', key.job(earlier), 'token', 'node_id', 'pool', 'chosen_by')
    if job[1] == token then return {'OK', job[2], earlier, job[3], job[4]} end
  end
end

local pools = pools_of(pool, langs)
if not pools then return {'NO_POOL_FOR_LANG_PAIR'} end

local session = {node_id = '', pool = ''}
if session_id ~= '' then
  local known = redis.call('HMGET', key.session(session_id), 'node_id', 'preferred_pool')
  session = {node_id = known[1] or '', pool = known[2] or ''}
end

local node_id, in_pool, chosen_by =
  choose_node(pools, capabilities, preferred, session, now, node_ttl)
if not node_id then
  for _, candidate in ipairs(pools) do
    if has_members(candidate, capabilities) then return {'NO_AVAILABLE_NODE'} end
  end
  return {'EMPTY_POOL', pools[1]}
end

local turn = redis.call('INCR', key.job_id_seq())
local job_id = session_id .. ':' .. string.format('%.0f', turn)
hold_slot(node_id, job_id, now + lease)
redis.call('HSET', key.node_info(node_id), 'turn', turn)
place_node(node_id)

redis.call('HSET', key.job(job_id), 'node_id', node_id, 'session_id', session_id,
  'src_lang', src_lang, 'tgt_lang', tgt_lang, 'payload_json', payload_json,
  'status', 'dispatched', 'created_ts', now, 'task_id', task_id, 'token', token,
  'pool', in_pool, 'chosen_by', chosen_by)
redis.call('PEXPIRE', key.job(job_id), history_ttl)
if task_id ~= '' then redis.call('SET', key.task(task_id), job_id, 'PX', history_ttl) end
if session_id ~= '' then
  redis.call('HSET', key.session(session_id), 'node_id', node_id, 'preferred_pool', in_pool)
  if src_lang ~= '' then
    redis.call('HSET', key.session(session_id), 'last_lang_pair', src_lang .. ':' .. tgt_lang)
  end
  redis.call('PEXPIRE', key.session(session_id), session_ttl)
end
return {'OK', node_id, job_id, in_pool, chosen_by}
