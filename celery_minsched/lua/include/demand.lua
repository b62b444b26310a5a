-- include: node
-- From a demand to the nodes that can do it.
--
-- A pool selector names the pools that can serve: "asr" (this pool), "zh:en" (the pools that serve the pair; after "|"
-- follows the next pair to look up), or "asr=zh:en" (this pool, if it serves the pair or lists no pair). A node must
-- have all `capabilities` of a demand.

local function split(text, pattern)
  local parts = {}
  for part in string.gmatch(text, pattern) do parts[#parts + 1] = part end
  return parts
end

-- The pool that a selector names, or nil, and its language pairs.
local function parse_selector(pool_selector)
  local pool, pairs_text = string.match(pool_selector, '^([^=]*)=(.*)$')
  if not pool and string.find(pool_selector, ':', 1, true) then
    pairs_text = pool_selector
  elseif not pool then
    pool, pairs_text = pool_selector, ''
  end
  return pool, split(pairs_text, '[^|]+')
end

-- Pools of language pairs that this call has read. After MOST_POOLS, it begins nothing more.
local pools_read = 0
local MOST_POOLS = 1000

-- The pools that a selector matches, as a list that may be empty.
local function pools_of(pool_selector)
  if not string.find(pool_selector, '[=:]') then return {pool_selector} end
  local pool, language_pairs = parse_selector(pool_selector)
  if pool then
    if #language_pairs == 0 or redis.call('EXISTS', key.pool_langs(pool)) == 0 then return {pool} end
    for _, pair in ipairs(language_pairs) do
      if redis.call('SISMEMBER', key.pool_langs(pool), pair) == 1 then return {pool} end
    end
    return {}
  end
  for _, pair in ipairs(language_pairs) do
    local pools = redis.call('SMEMBERS', key.lang(pair))
    pools_read = pools_read + #pools
    table.sort(pools)
    if #pools > 0 then return pools end
  end
  return {}
end

-- The pool of these in which the node is a member with all capabilities, or nil.
local function pool_of_node(node_id, pools, capabilities)
  for _, pool in ipairs(pools) do
    local fits = redis.call('SISMEMBER', members_key(pool, ''), node_id) == 1
    for _, capability in ipairs(capabilities) do
      fits = fits and redis.call('SISMEMBER', members_key(pool, capability), node_id) == 1
    end
    if fits then return pool end
  end
  return nil
end

-- The most nodes that one call reads for demands with several capabilities. After that, a job waits, and the heartbeat
-- of a node that can do it finds it. A silent node counts as 100, since it leaves all its indexes.
local node_reads_left = 5000
local MOST_INTERSECTED = 1000

-- The capability whose set has the fewest nodes, and their number. If there is one capability or none (""), the number
-- is not read.
local function rarest_capability(capabilities, key_of, command)
  if #capabilities < 2 then return capabilities[1] or '' end
  local best, fewest
  for _, capability in ipairs(capabilities) do
    local size = redis.call(command, key_of(capability))
    if not fewest or size < fewest then best, fewest = capability, size end
  end
  return best, fewest
end

-- Is a node with all capabilities registered in one of the pools? If each of several capabilities has many nodes, the
-- answer is yes without a check, which would take too long.
local function is_possible(pools, capabilities)
  for _, pool in ipairs(pools) do
    if #capabilities < 2 then
      if redis.call('EXISTS', members_key(pool, capabilities[1] or '')) == 1 then return true end
    else
      local function members(capability) return members_key(pool, capability) end
      local _, fewest = rarest_capability(capabilities, members, 'SCARD')
      if fewest > MOST_INTERSECTED or fewest > node_reads_left then return true end
      node_reads_left = node_reads_left - fewest
      local sets = {}
      for i, capability in ipairs(capabilities) do sets[i] = members(capability) end
      if #redis.call('SINTER', unpack(sets)) > 0 then return true end
    end
  end
  return false
end

local has_paused_pools  -- nil before the first look

-- Has an operator paused the pool? Then its nodes take no more jobs for it, and jobs that ask for it wait.
local function is_paused(pool)
  if has_paused_pools == nil then has_paused_pools = redis.call('EXISTS', key.paused()) == 1 end
  return has_paused_pools and redis.call('SISMEMBER', key.paused(), pool) == 1
end

-- Can the node do what is asked for in one of the pools, now or when it has a free slot?
local function can_serve(node_id, pools, capabilities)
  return node_id ~= '' and pool_of_node(node_id, pools, capabilities)
    and attempt(read_working_node, node_id)
end

-- The name of the line of a job, see include/line_index.lua.
local function line_name(job, required) return job.where .. '/' .. job.caps .. '/' .. required end
