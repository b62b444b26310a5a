-- include: demand
-- The choice of a node for a job.

local function has_free_slot(node_id, pool, capabilities)
  if is_paused(pool) then return false end
  if not redis.call('ZSCORE', free_key(pool, ''), node_id) then return false end
  for _, capability in ipairs(capabilities) do
    if not redis.call('ZSCORE', free_key(pool, capability), node_id) then return false end
  end
  return true
end

-- The first of some nodes that is in the free set of each capability, and its load order as text. Nil if there is none.
local function first_with_all(pool, capabilities, nodes)
  local orders = {}
  for _, capability in ipairs(capabilities) do
    for i, order in ipairs(redis.call('ZMSCORE', free_key(pool, capability), unpack(nodes))) do
      orders[i] = orders[i] ~= false and order
    end
  end
  for i, node_id in ipairs(nodes) do
    if orders[i] then return node_id, orders[i] end
    node_reads_left = node_reads_left - 1
  end
end

-- The next node in load order with a free slot and all capabilities, alive or not: its id, and its load order as text.
-- For one capability or none, it is the head of one sorted set, and the third result is the first two nodes there. For
-- more, reads the smallest of their sets in steps.
local function next_free_node(pool, capabilities, rarest)
  if #capabilities < 2 then
    local first_two = first_two_of(free_key(pool, rarest))
    return first_two[1], first_two[2], first_two
  end
  local at, count = 0, 2
  while node_reads_left > 0 do
    local nodes = redis.call('ZRANGE', free_key(pool, rarest), at, at + count - 1)
    if #nodes == 0 then return nil end
    local node_id, order = first_with_all(pool, capabilities, nodes)
    if node_id then return node_id, order end
    at, count = at + count, 100
  end
end

-- The least-loaded live node of the pool with a free slot and all capabilities, or nil. Adds its load order, and the
-- first two nodes of its set if they were read.
local function least_loaded_node(pool, capabilities)
  if is_paused(pool) then return nil end
  local function free(capability) return free_key(pool, capability) end
  local rarest = rarest_capability(capabilities, free, 'ZCARD')
  while node_reads_left > 0 do
    local node_id, order, first_two = next_free_node(pool, capabilities, rarest)
    if not node_id then return nil end
    local node = attempt(read_live_node, node_id)
    if node then
      node.order, node.first_two = order, first_two
      return node
    end
    node_reads_left = node_reads_left - 100
    redis.call('ZREM', free_key(pool, rarest), node_id)  -- also if its record does not list this index
  end
end

-- The node that a job must have: its preferred node, else the node of its session, if that node can serve the job. ""
-- if any node will do.
local function required_node(job, session, pools, capabilities)
  if job.affinity ~= 'require' then return '' end
  local wanted = job.preferred ~= '' and job.preferred or session.node_id
  return can_serve(wanted, pools, capabilities) and wanted or ''
end

-- The wished node, if it has a free slot for the job and is alive, and its pool. Else nil.
local function wished_node(wish, pools, capabilities, required)
  if wish == '' or (required ~= '' and required ~= wish) then return nil end
  for _, pool in ipairs(pools) do
    local node = has_free_slot(wish, pool, capabilities) and attempt(read_live_node, wish)
    if node then return node, pool end
  end
end

-- Chooses the node of a job. Tries these in order: the caller's preferred node, the session's node, the least-loaded
-- node of the session's pool, the least-loaded node of all pools. Returns the node, the pool, and the name of the rule.
local function choose_node(job, session, pools, capabilities, required)
  local has_home = job.affinity ~= 'none'
  local node, home_pool = wished_node(job.preferred, pools, capabilities, required)
  if node then return node, home_pool, 'preferred' end
  node, home_pool = wished_node(has_home and session.node_id or '', pools, capabilities, required)
  if node then return node, home_pool, 'sticky' end
  if required ~= '' then return nil end
  local best, best_pool
  for _, pool in ipairs(pools) do
    node = least_loaded_node(pool, capabilities)
    local is_home = node and has_home and pool == session.pool
    if is_home or (node and (not best or tonumber(node.order) < tonumber(best.order))) then best, best_pool = node, pool end
    if is_home then break end
  end
  if best then
    local free = free_key(best_pool, capabilities[1] or '')
    describe_choice(best, free, best.order, best.first_two or first_two_of(free))
  end
  return best, best_pool, 'least_loaded'
end
