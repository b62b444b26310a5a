-- include: node
-- From a demand to a node.

-- The pools that could serve: the one that is named, or those of the first pair that any serves.
-- A named pool that lists language pairs must list one of these. nil: none does.
local function pools_of(pool, pairs)
  if pool ~= '' then
    if #pairs == 0 or redis.call('EXISTS', key.pool_langs(pool)) == 0 then return {pool} end
    for _, pair in ipairs(pairs) do
      if redis.call('SISMEMBER', key.pool_langs(pool), pair) == 1 then return {pool} end
    end
    return nil
  end
  for _, pair in ipairs(pairs) do
    local pools = redis.call('SMEMBERS', key.lang(pair))
    if #pools > 0 then
      table.sort(pools)
      return pools
    end
  end
  return nil
end

-- Has the pool, by its registrations, a node with each of the capabilities?
local function has_members(pool, capabilities)
  if redis.call('EXISTS', members_key(pool, '')) == 0 then return false end
  for _, capability in ipairs(capabilities) do
    if redis.call('EXISTS', members_key(pool, capability)) == 0 then return false end
  end
  return true
end

local function is_free(node_id, pool, capabilities)
  if not redis.call('ZSCORE', free_key(pool, ''), node_id) then return false end
  for _, capability in ipairs(capabilities) do
    if not redis.call('ZSCORE', free_key(pool, capability), node_id) then return false end
  end
  return true
end

-- The least-loaded live node of the pool with a free slot and all the capabilities, and its place in
-- load order. One capability, or none: the head of one set. With more, the smallest of their sets
-- is walked in load order until a node has the others too.
local function head_of(pool, capabilities, now, node_ttl)
  local smallest, fewest = '', nil
  for _, capability in ipairs(capabilities) do
    local count = redis.call('ZCARD', free_key(pool, capability))
    if not fewest or count < fewest then smallest, fewest = capability, count end
  end
  local at = 0
  while true do
    local found = redis.call('ZRANGE', free_key(pool, smallest), at, at, 'WITHSCORES')
    if #found == 0 then return nil end
    if not is_alive(found[1], now, node_ttl) then
      redis.call('ZREM', free_key(pool, smallest), found[1])  -- whatever its record says
    elseif is_free(found[1], pool, capabilities) then
      return found[1], tonumber(found[2])
    else
      at = at + 1
    end
  end
end

-- The node for a demand: the one the caller prefers, else the session's, else the least loaded of
-- the session's pool, else the least loaded of all. Returns node, pool, and by what it was chosen.
local function choose_node(pools, capabilities, preferred, session, now, node_ttl)
  local wishes = {{preferred, 'preferred'}, {session.node_id, 'sticky'}}
  for _, wish in ipairs(wishes) do
    for _, pool in ipairs(pools) do
      if wish[1] ~= '' and is_free(wish[1], pool, capabilities)
        and is_alive(wish[1], now, node_ttl) then
        return wish[1], pool, wish[2]
      end
    end
  end
  local best, best_order, best_pool
  for _, pool in ipairs(pools) do
    local node_id, order = head_of(pool, capabilities, now, node_ttl)
    if node_id and pool == session.pool then return node_id, pool, 'least_loaded' end
    if node_id and (not best or order < best_order) then
      best, best_order, best_pool = node_id, order, pool
    end
  end
  return best, best_pool, 'least_loaded'
end
