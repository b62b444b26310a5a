-- include: node
-- From a demand to a node.
--
-- `where` says which pools will do: "asr" (the pool), "zh:en" (those that serve the pair; after a
-- "|" the pair to look up next), or "asr=zh:en" (the pool, if it serves the pair or lists none).
-- `caps` are the capabilities that a node must have, separated by commas.

local function split(text, pattern)
  local parts = {}
  for part in string.gmatch(text, pattern) do parts[#parts + 1] = part end
  return parts
end

-- The pool that `where` names, or nil, and its language pairs.
local function parse_where(where)
  local pool, pairs_text = string.match(where, '^([^=]*)=(.*)$')
  if not pool and string.find(where, ':', 1, true) then
    pairs_text = where
  elseif not pool then
    pool, pairs_text = where, ''
  end
  return pool, split(pairs_text, '[^|]+')
end

-- Pools of language pairs that this call has looked at, and the most after which it begins nothing more.
local pools_looked = 0
local MOST_POOLS = 1000

-- The pools that could serve, as a list that may be empty.
local function pools_of(where)
  local pool, langs = parse_where(where)
  if pool then
    if #langs == 0 or redis.call('EXISTS', key.pool_langs(pool)) == 0 then return {pool} end
    for _, pair in ipairs(langs) do
      if redis.call('SISMEMBER', key.pool_langs(pool), pair) == 1 then return {pool} end
    end
    return {}
  end
  for _, pair in ipairs(langs) do
    local pools = redis.call('SMEMBERS', key.lang(pair))
    pools_looked = pools_looked + #pools
    table.sort(pools)
    if #pools > 0 then return pools end
  end
  return {}
end

-- The pool of these in which the node is a member with all the capabilities, or nil.
local function pool_in(node_id, pools, caps)
  for _, pool in ipairs(pools) do
    local fits = redis.call('SISMEMBER', members_key(pool, ''), node_id) == 1
    for _, capability in ipairs(caps) do
      fits = fits and redis.call('SISMEMBER', members_key(pool, capability), node_id) == 1
    end
    if fits then return pool end
  end
  return nil
end

-- Nodes that one call looks at, at the most, for demands with several capabilities. After that a job waits, and the
-- heartbeat of a node that can do it finds it. A silent node counts as 100, since it leaves all its indexes.
local walk_left = 5000
local MOST_INTERSECTED = 1000

-- The capability whose set has the fewest members, and their number. Of one capability, or none (""), the number is
-- not asked for.
local function with_fewest(caps, count_key, command)
  if #caps < 2 then return caps[1] or '' end
  local best, fewest
  for _, capability in ipairs(caps) do
    local count = redis.call(command, count_key(capability))
    if not fewest or count < fewest then best, fewest = capability, count end
  end
  return best, fewest
end

-- Is a node with all of the capabilities registered in one of the pools? If many nodes have each of several
-- capabilities, the answer is yes without a look: to find out would take too long.
local function is_possible(pools, caps)
  for _, pool in ipairs(pools) do
    if #caps < 2 then
      if redis.call('EXISTS', members_key(pool, caps[1] or '')) == 1 then return true end
    else
      local function members(capability) return members_key(pool, capability) end
      local _, fewest = with_fewest(caps, members, 'SCARD')
      if fewest > MOST_INTERSECTED or fewest > walk_left then return true end
      walk_left = walk_left - fewest
      local sets = {}
      for i, capability in ipairs(caps) do sets[i] = members(capability) end
      if #redis.call('SINTER', unpack(sets)) > 0 then return true end
    end
  end
  return false
end

-- Has an operator paused the pool? Then its nodes take no more jobs for it, and jobs that ask for it wait.
local function is_paused(pool) return redis.call('SISMEMBER', key.paused(), pool) == 1 end

local function is_free(node_id, pool, caps)
  if is_paused(pool) then return false end
  if not redis.call('ZSCORE', free_key(pool, ''), node_id) then return false end
  for _, capability in ipairs(caps) do
    if not redis.call('ZSCORE', free_key(pool, capability), node_id) then return false end
  end
  return true
end

-- The first of some nodes that has a free slot by each of the capabilities, and its place in load order; nil for
-- none. The nodes before it were looked at in vain.
local function first_with_all(pool, caps, nodes)
  local orders = {}
  for _, capability in ipairs(caps) do
    for i, order in ipairs(redis.call('ZMSCORE', free_key(pool, capability), unpack(nodes))) do
      orders[i] = orders[i] ~= false and order
    end
  end
  for i, node_id in ipairs(nodes) do
    if orders[i] then return node_id, tonumber(orders[i]) end
    walk_left = walk_left - 1
  end
end

-- The next node in load order with a free slot and all the capabilities, alive or not. One capability, or none:
-- the head of one set. With more, the smallest of their sets is walked.
local function next_free(pool, caps, smallest)
  if #caps < 2 then
    local found = redis.call('ZRANGE', free_key(pool, smallest), 0, 0, 'WITHSCORES')
    return found[1], tonumber(found[2])
  end
  local at, count = 0, 2
  while walk_left > 0 do
    local nodes = redis.call('ZRANGE', free_key(pool, smallest), at, at + count - 1)
    if #nodes == 0 then return nil end
    local node_id, order = first_with_all(pool, caps, nodes)
    if node_id then return node_id, order end
    at, count = at + count, 100
  end
end

-- The least-loaded live node of the pool with a free slot and all the capabilities, and its place in
-- load order.
local function head_of(pool, caps)
  if is_paused(pool) then return nil end
  local function free(capability) return free_key(pool, capability) end
  local smallest = with_fewest(caps, free, 'ZCARD')
  while walk_left > 0 do
    local node_id, order = next_free(pool, caps, smallest)
    if not node_id or is_alive(node_id) then return node_id, order end
    walk_left = walk_left - 100
    redis.call('ZREM', free_key(pool, smallest), node_id)  -- whatever its record says
  end
end

-- What can be told later of why the node was the least loaded: how many were free, its place in load
-- order, and the next best with its own. No script reads it.
local function describe_choice(pool, caps, order)
  local free = free_key(pool, caps[1] or '')
  local two = redis.call('ZRANGE', free, 0, 1, 'WITHSCORES')
  local said = string.format('%d %.0f', redis.call('ZCARD', free), order)
  return two[3] and said .. ' ' .. two[3] .. ' ' .. two[4] or said
end

-- Is the node there to do in one of the pools what is asked for, be it full just now?
local function is_for(node_id, pools, caps)
  return node_id ~= '' and pool_in(node_id, pools, caps) ~= nil and (attempt(takes_jobs, node_id) or false) ~= false
end

-- The node that a job must have: the preferred one, or else its session's, while that is there to do
-- it. "" where any will do.
local function required_node(job, session, pools, caps)
  if job.affinity ~= 'require' then return '' end
  local wanted = job.preferred ~= '' and job.preferred or session.node_id
  return is_for(wanted, pools, caps) and wanted or ''
end

-- The node for a job: the one the caller prefers, else the session's, else the least loaded of the
-- session's pool, else the least loaded of all. Returns node, pool, and by what it was chosen.
local function choose_node(job, session, pools, caps, required)
  local sticky = job.affinity ~= 'none' and session.node_id or ''
  for _, wish in ipairs({{job.preferred, 'preferred'}, {sticky, 'sticky'}}) do
    for _, pool in ipairs(pools) do
      if wish[1] ~= '' and (required == '' or required == wish[1])
        and is_free(wish[1], pool, caps) and is_alive(wish[1]) then
        return wish[1], pool, wish[2]
      end
    end
  end
  if required ~= '' then return nil end
  local best, best_order, best_pool
  for _, pool in ipairs(pools) do
    local node_id, order = head_of(pool, caps)
    if node_id and pool == session.pool and job.affinity ~= 'none' then
      best, best_order, best_pool = node_id, order, pool
      break
    end
    if node_id and (not best or order < best_order) then
      best, best_order, best_pool = node_id, order, pool
    end
  end
  if best then job.decision = describe_choice(best_pool, caps, best_order) end
  return best, best_pool, 'least_loaded'
end
