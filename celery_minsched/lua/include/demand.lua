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

-- The pools that could serve; none where none does.
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

-- Has one of the pools, by its registrations, a node with all of the capabilities?
local function is_possible(pools, caps)
  for _, pool in ipairs(pools) do
    local sets = {}
    for i, capability in ipairs(#caps > 0 and caps or {''}) do sets[i] = members_key(pool, capability) end
    -- SINTERCARD, which can stop at the first, is not in Redis 6.2.
    local possible = #sets == 1 and redis.call('EXISTS', sets[1]) == 1
      or #sets > 1 and #redis.call('SINTER', unpack(sets)) > 0
    if possible then return true end
  end
  return false
end

-- An operator has paused the pool: its nodes take no more jobs for it, and those who ask for it wait.
local function is_paused(pool) return redis.call('SISMEMBER', key.paused(), pool) == 1 end

local function not_paused(pools)
  local open = {}
  for _, pool in ipairs(pools) do
    if not is_paused(pool) then open[#open + 1] = pool end
  end
  return open
end

local function is_free(node_id, pool, caps)
  if is_paused(pool) then return false end
  if not redis.call('ZSCORE', free_key(pool, ''), node_id) then return false end
  for _, capability in ipairs(caps) do
    if not redis.call('ZSCORE', free_key(pool, capability), node_id) then return false end
  end
  return true
end

-- Nodes that one call looks at in vain: after that a job waits, and the heartbeat of a node that could
-- have it finds it. A silent node counts more, since it is taken out of all its indexes.
local walk_left = 1000

-- The least-loaded live node of the pool with a free slot and all the capabilities, and its place in
-- load order. One capability, or none: the head of one set. With more, the smallest of their sets
-- is walked in load order until a node has the others too.
local function head_of(pool, caps)
  if is_paused(pool) then return nil end
  local smallest, fewest = '', nil
  for _, capability in ipairs(caps) do
    local count = redis.call('ZCARD', free_key(pool, capability))
    if not fewest or count < fewest then smallest, fewest = capability, count end
  end
  local at = 0
  while walk_left > 0 do
    local found = redis.call('ZRANGE', free_key(pool, smallest), at, at, 'WITHSCORES')
    if #found == 0 then return nil end
    if not is_alive(found[1]) then
      walk_left = walk_left - 20
      redis.call('ZREM', free_key(pool, smallest), found[1])  -- whatever its record says
    elseif #caps < 2 or is_free(found[1], pool, caps) then
      return found[1], tonumber(found[2])
    else
      walk_left = walk_left - 1
      at = at + 1
    end
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
  return node_id ~= '' and pool_in(node_id, pools, caps) ~= nil and takes_jobs(node_id) ~= false
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
