-- include: heard
-- include: journal
-- include: load
-- include: pool
-- A node's slots, its place in load order, and whether it takes jobs.
--
-- A node's `offers` are its indexes: a line "pool<TAB>" for each pool it is in, and a line
-- "pool<TAB>capability" for each of its capabilities there. Each index is a set of members and a
-- sorted set of those with a free slot, so a demand for a rare capability in a large pool is one
-- head read like any other.

local MOST_CLAIMS = 1000  -- jobs of a node that are looked at when it dies

local function members_key(pool, capability)
  if capability == '' then return key.pool_members(pool) end
  return key.capable_members(pool, capability)
end

local function free_key(pool, capability)
  if capability == '' then return key.pool_free(pool) end
  return key.capable_free(pool, capability)
end

local function lines(text)
  return string.gmatch(text or '', '([^\t\n]+)\t([^\t\n]*)')
end

-- Load order in one number of 53 bits, the most that a double holds exactly. From the top:
--   12 bits  share of slots taken
--    2 bits  level of the load last reported
--   39 bits  the turn in which the node was last chosen, after the base: longest ago first
local TURNS = 549755813888

local function load_order(taken, max_jobs, load, turn)
  local share = math.floor(taken * 4095 / max_jobs)
  return string.format('%.0f', (share * 4 + load_level(load)) * TURNS + math.max(0, math.min(turn, TURNS - 1)))
end

-- Turns are counted for ever. A base is subtracted in the load order, the same for all nodes. It is half
-- the range of turns behind, or more.
local function turn_base(turn) return math.max(0, math.floor(turn * 2 / TURNS) - 1) * TURNS / 2 end

-- Writes of this call to the free sets of nodes: a node has up to 256.
local index_writes = 0

-- Puts a node where it belongs after any change of it: into the free sets of all it offers while it
-- is online, not draining and has a free slot, else out of them. Returns the number of slots taken, and
-- its turn after the base.
local function place_node(node_id)
  local taken = redis.call('ZCARD', key.node_jobs(node_id))
  local node = redis.call('HMGET', key.node_info(node_id),
    'online', 'draining', 'max_jobs', 'load', 'turn', 'offers', 'turn_base')
  if not node[3] then return taken, 0 end
  attempt(redis.call, 'HSET', key.node_runtime(node_id), 'current_jobs', taken)
  local max_jobs, turn = number(node[3]), number(node[5]) - number(node[7])
  local order = node[1] == 'true' and node[2] ~= 'true' and taken < max_jobs
    and load_order(taken, max_jobs, number(node[4]), turn)
  for pool, capability in lines(node[6]) do
    index_writes = index_writes + 1
    if order then
      redis.call('ZADD', free_key(pool, capability), order, node_id)
    else
      redis.call('ZREM', free_key(pool, capability), node_id)
    end
  end
  return taken, turn
end

-- The node was chosen: it is the last of those with the same share and load. Once in 2^38 turns the base
-- moves on, for all nodes in one step, so that their order stays.
local function place_chosen(node_id)
  local now = next_number(key.turn())
  redis.call('HSET', key.node_info(node_id), 'turn', now)
  local _, turn = place_node(node_id)
  if turn < TURNS then return end
  local base = string.format('%.0f', turn_base(now))
  for _, each in ipairs(redis.call('ZRANGE', key.nodes(), 0, -1)) do
    redis.call('HSET', key.node_info(each), 'turn_base', base)
    place_node(each)
  end
end

-- Is the node's last heartbeat younger than the TTL? If not, and if its silence counts, removes it from dispatch.
local function is_heard(node_id, last_heartbeat)
  local seen = heard_at(node_id, last_heartbeat)
  if NOW - seen <= TTL.node then return true end
  if seen == 0 then return false end  -- no record at all
  if does_silence_count() == false then return true end
  redis.call('HSET', key.node_info(node_id), 'online', 'false')
  place_node(node_id)
  return false
end

local function is_alive(node_id)
  return attempt(function()
    return is_heard(node_id, redis.call('HGET', key.node_info(node_id), 'last_heartbeat_ts'))
  end) or false
end

-- Was the node found silent? A node that has left has no instance.
local function has_died(node_id)
  return tonumber(redis.call('ZSCORE', key.nodes(), node_id) or 0) < 0
    and redis.call('HGET', key.node_info(node_id), 'instance') ~= ''
end

-- Starts a new term of the node: its earlier claims are void. The answer to its next heartbeat has the term's number.
-- The number is new in the whole fleet, so a node whose record was forgotten gets no old one.
local function end_term(node_id)
  redis.call('HSET', key.node_info(node_id), 'term', next_number(key.turn()))
end

-- Records which jobs of a node that died may have begun there, and so may have killed it: as many as it runs
-- at once, the first that it claimed; "*" for all. The others waited for a process or a thread.
local function note_suspects(node_id)
  local node = redis.call('HMGET', key.node_info(node_id), 'max_jobs', 'concurrency')
  local most = number(node[2] or node[1])
  local jobs = redis.call('ZRANGE', key.node_jobs(node_id), 0, MOST_CLAIMS - 1)
  local claimed, suspects = {}, {}
  if #jobs <= most then
    jobs, suspects = {}, {'*'}
  end
  for _, job_id in ipairs(jobs) do
    local job = redis.call('HMGET', key.job(job_id), 'status', 'started_ts')
    if job[1] == 'running' then
      local sequence = number(string.match(job_id, '%d+$'))
      table.insert(claimed, {id = job_id, at = number(job[2]), number = sequence})
    end
  end
  table.sort(claimed, function(one, other)
    if one.at ~= other.at then return one.at < other.at end
    return one.number < other.number
  end)
  for i = 1, math.min(most, #claimed) do suspects[i] = claimed[i].id end
  redis.call('HSET', key.node_info(node_id), 'suspects', table.concat(suspects, '\n'))
end

-- The number of slots of a node that takes jobs, free or not. False if it takes none.
local function takes_jobs(node_id)
  local node = redis.call('HMGET', key.node_info(node_id),
    'online', 'draining', 'last_heartbeat_ts', 'max_jobs')
  return node[1] == 'true' and node[2] ~= 'true' and is_heard(node_id, node[3]) and number(node[4])
end

-- Which pools serve which pairs otherwise than before this call, by both names. See include/relink.lua.
local changed_pairs = {}

local function note_change(pool, pair)
  local name = pool .. '\t' .. pair
  changed_pairs[name] = not changed_pairs[name] and {pool, pair} or nil
end

-- Records that `speaker` (a node id, or '*' for a mapping set by a program) makes the pool serve the language pair.
-- The second function takes that back.
local function serve_pair(pair, pool, speaker)
  redis.call('SADD', key.lang_speakers(pair, pool), speaker)
  redis.call('SADD', key.pool_langs(pool), pair)
  if redis.call('SADD', key.lang(pair), pool) == 1 then note_change(pool, pair) end
end

local function unserve_pair(pair, pool, speaker)
  redis.call('SREM', key.lang_speakers(pair, pool), speaker)
  if redis.call('EXISTS', key.lang_speakers(pair, pool)) == 0 then
    redis.call('SREM', key.pool_langs(pool), pair)
    if redis.call('SREM', key.lang(pair), pool) == 1 then note_change(pool, pair) end
  end
end

-- Puts the node into every index of its offers.
local function enter_offers(node_id, offers)
  for pool, capability in lines(offers) do
    redis.call('SADD', members_key(pool, capability), node_id)
    if capability == '' then enter_pool(pool) end
  end
end

-- Takes the node out of every index that its registration put it in.
local function withdraw_offers(node_id)
  local old = redis.call('HMGET', key.node_info(node_id), 'offers', 'speaks')
  for pool, capability in lines(old[1]) do
    redis.call('SREM', members_key(pool, capability), node_id)
    redis.call('ZREM', free_key(pool, capability), node_id)
    if capability == '' and redis.call('EXISTS', members_key(pool, '')) == 0 then leave_pool(pool) end
  end
  for pool, pair in lines(old[2]) do unserve_pair(pair, pool, node_id) end
end
