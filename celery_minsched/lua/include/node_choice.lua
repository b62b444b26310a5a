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

-- The first of some nodes that is in the free set of each capability, and its load order. Nil if there is none.
local function first_with_all(pool, capabilities, nodes)
  local orders = {}
  for _, capability in ipairs(capabilities) do
    for i, order in ipairs(redis.call('ZMSCORE', free_key(pool, capability), unpack(nodes))) do
      orders[i] = orders[i] ~= false and order
    end
  end
  for i, node_id in ipairs(nodes) do
    if orders[i] then return node_id, tonumber(orders[i]) end
    node_reads_left = node_reads_left - 1
  end
end

-- The next node in load order with a free slot and all capabilities, alive or not. For one capability or none, it is
-- the head of one sorted set. For more, reads the smallest of their sets in steps.
local function next_free_node(pool, capabilities, rarest)
  if #capabilities < 2 then
    local head = redis.call('ZRANGE', free_key(pool, rarest), 0, 0, 'WITHSCORES')
    return head[1], tonumber(head[2])
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

-- The least-loaded live node of the pool with a free slot and all capabilities, and its load order.
local function least_loaded_node(pool, capabilities)
  if is_paused(pool) then return nil end
  local function free(capability) return free_key(pool, capability) end
  local rarest = rarest_capability(capabilities, free, 'ZCARD')
  while node_reads_left > 0 do
    local node_id, order = next_free_node(pool, capabilities, rarest)
    if not node_id or is_alive(node_id) then return node_id, order end
    node_reads_left = node_reads_left - 100
    redis.call('ZREM', free_key(pool, rarest), node_id)  -- also if its record does not list this index
  end
end

-- A text for `why`: the number of free nodes, the load order of the chosen node, and the next best node with its load
-- order. No script reads it.
local function describe_choice(pool, capabilities, order)
  local free = free_key(pool, capabilities[1] or '')
  local first_two = redis.call('ZRANGE', free, 0, 1, 'WITHSCORES')
  local text = string.format('%d %.0f', redis.call('ZCARD', free), order)
  return first_two[3] and text .. ' ' .. first_two[3] .. ' ' .. first_two[4] or text
end

-- The node that a job must have: its preferred node, else the node of its session, if that node can serve the job. ""
-- if any node will do.
local function required_node(job, session, pools, capabilities)
  if job.affinity ~= 'require' then return '' end
  local wanted = job.preferred ~= '' and job.preferred or session.node_id
  return can_serve(wanted, pools, capabilities) and wanted or ''
end

-- The node for a job: the one that the caller prefers, else the session's, else the least loaded of the session's pool,
-- else the least loaded of all. Returns the node, the pool, and the rule that chose it.
local function choose_node(job, session, pools, capabilities, required)
  local sticky = job.affinity ~= 'none' and session.node_id or ''
  for _, wish in ipairs({{job.preferred, 'preferred'}, {sticky, 'sticky'}}) do
    for _, pool in ipairs(pools) do
      if wish[1] ~= '' and (required == '' or required == wish[1])
        and has_free_slot(wish[1], pool, capabilities) and is_alive(wish[1]) then
        return wish[1], pool, wish[2]
      end
    end
  end
  if required ~= '' then return nil end
  local best, best_order, best_pool
  for _, pool in ipairs(pools) do
    local node_id, order = least_loaded_node(pool, capabilities)
    if node_id and pool == session.pool and job.affinity ~= 'none' then
      best, best_order, best_pool = node_id, order, pool
      break
    end
    if node_id and (not best or order < best_order) then
      best, best_order, best_pool = node_id, order, pool
    end
  end
  if best then job.decision = describe_choice(best_pool, capabilities, best_order) end
  return best, best_pool, 'least_loaded'
end
