-- include: line
-- Which line gets a free slot. In a pool, it is the line whose first job has the first place: by priority, then by
-- virtual time, then by age. A node in several pools compares the priorities first. Among pools with the same priority,
-- it serves the pool that it served longest ago.

-- Limits of one call. A later heartbeat continues.
local line_reads_left = 2000  -- indexes read, and lines read in vain
local nodes_left = 256
local moves_left = 100        -- jobs moved from lines, or from the delayed jobs, to nodes
local INDEX_HEAD = 64         -- lines of an index that each search reads

-- May this call move more jobs?
local function may_move() return moves_left > 0 and bytes_left > 0 and pools_read < MOST_POOLS end

-- A node's advertised indexes, without those of paused pools: as a list, and as a set.
local function read_indexes(node)
  local indexes, paused = {pools = 0}, {}
  for pool, capability in each_pair(node[OFFERS]) do
    if paused[pool] == nil then
      paused[pool] = is_paused(pool)
      indexes.pools = indexes.pools + 1
    end
    if not paused[pool] then
      indexes[#indexes + 1] = {pool, capability}
      indexes[pool .. '\t' .. capability] = true
    end
  end
  return indexes
end

local function has_all(indexes, pool, capabilities)
  if not indexes[pool .. '\t'] then return false end
  for _, capability in ipairs(capabilities) do
    if not indexes[pool .. '\t' .. capability] then return false end
  end
  return true
end

-- Moves a line out of an index to which it does not belong.
local function move_line(line, index)
  redis.call('ZREM', index, line)
  index_line(line)
  return true
end

-- The pool, if the node can serve a line of this index of the pool. Else nil, and whether the line has left the index:
-- a line whose pools or node have changed moves to its right indexes.
local function pool_at_index(indexes, pool, index, line)
  local pool_selector, capabilities, required = parse_line(line)
  if not has_all(indexes, pool, capabilities) then return nil end
  if pool_selector == pool and required == '' then return pool end
  line_reads_left = line_reads_left - 4
  local pools = pools_of(pool_selector)
  for _, name in ipairs(pools) do
    if name == pool and not can_serve(required, pools, capabilities) then return pool end
  end
  return nil, move_line(line, index)
end

-- The same for a line that waits for this node alone.
local function pool_at_node(indexes, node_id, line)
  local pool_selector, capabilities = parse_line(line)
  local pools = pools_of(pool_selector)
  for _, pool in ipairs(pools) do
    if has_all(indexes, pool, capabilities) then return pool end
  end
  line_reads_left = line_reads_left - 4
  if pool_of_node(node_id, pools, capabilities) then return nil end  -- the pool is paused
  return nil, move_line(line, key.node_waiting(node_id))
end

-- The first line of an index for which `pool_for` returns a pool: {line, place, pool, index}, or nil. If this call may
-- read no more lines, the node's next call continues the search. After a search without a result, the node's calls
-- read only the head of the index for a while.
local function first_in_index(node_id, index, name, pool_for)
  local at, count, reached, is_resumed = 0, 1, nil, false
  while line_reads_left > 0 do
    local scored, left = redis.call('ZRANGE', index, at, at + count - 1, 'WITHSCORES'), 0
    for i = 1, #scored, 2 do
      local pool, has_left = pool_for(scored[i])
      if has_left then left = left + 1 end
      if pool then
        if at > INDEX_HEAD then redis.call('HDEL', key.node_searches(node_id), name) end
        return {line = scored[i], place = tonumber(scored[i + 1]), pool = pool, index = index}
      end
    end
    line_reads_left = line_reads_left - 1 - #scored / 2
    if #scored < 2 * count then
      reached = 'end'
      break
    end
    at = at + count - left
    if count == 1 then
      count = INDEX_HEAD
    elseif not is_resumed then
      is_resumed = true
      local before = redis.call('HGET', key.node_searches(node_id), name)
      if before == 'end' then return nil end
      at = math.max(at, number(before))
    end
  end
  if at <= INDEX_HEAD then return nil end
  redis.call('HSET', key.node_searches(node_id), name, reached or at)
  if redis.call('PTTL', key.node_searches(node_id)) == -1 then
    redis.call('PEXPIRE', key.node_searches(node_id), TTL.node)
  end
end

-- The first of some lines, each in another pool of the node.
local function first_of_pools(node_id, candidates)
  local fields = {}
  for i, each in ipairs(candidates) do fields[i] = 'served ' .. each.pool end
  local served = redis.call('HMGET', key.node_info(node_id), unpack(fields))
  local best, best_step, best_served
  for i, each in ipairs(candidates) do
    local priority_step, last_served = math.floor(each.place / PRIORITY_UNIT), number(served[i])
    if not best or priority_step < best_step or (priority_step == best_step and last_served < best_served) then
      best, best_step, best_served = each, priority_step, last_served
    end
  end
  return best
end

-- The line that the node serves next, as {line, place, pool}, or nil.
local function next_line(node_id, indexes)
  local candidates, index_of = {}, {}  -- the first line of each pool
  local function compare(first)
    if not first then return end
    if not index_of[first.pool] then
      index_of[first.pool] = #candidates + 1
      table.insert(candidates, first)
    elseif first.place < candidates[index_of[first.pool]].place then
      candidates[index_of[first.pool]] = first
    end
  end
  for _, index in ipairs(indexes) do
    local pool, capability = index[1], index[2]
    local waiting = waiting_key(pool, capability)
    compare(attempt(first_in_index, node_id, waiting, pool .. '\t' .. capability, function(line)
      return pool_at_index(indexes, pool, waiting, line)
    end))
  end
  -- Last, since the searches above may move lines to this index.
  compare(first_in_index(node_id, key.node_waiting(node_id), '', function(line)
    return pool_at_node(indexes, node_id, line)
  end))
  return #candidates > 1 and first_of_pools(node_id, candidates) or candidates[1]
end

-- Gives a free slot to the first job in line. If the job's message is gone, the job is lost. Returns whether the slot
-- was taken. `take(job, node)` may take the message and return a claim, by which the job runs. Else the message goes to
-- the node's queue. `best` is from next_line.
local function assign_first_in_line(best, node, take)
  local line, pool = best.line, best.pool
  local queue_entry, place, next_place = first_in_line(line)
  if not queue_entry then return false, update_line(line) end  -- Redis has lost the jobs of the line
  local job = attempt(read_job, job_of_entry(queue_entry))
  if not job then return false, leave_line({line = line, ticket = queue_entry}) end
  job.line, job.ticket, job.band = line, queue_entry, math.floor(place / PRIORITY_UNIT)
  leave_clocks(job, place, pool)
  local has_one_index = parse_selector((parse_line(line)))  -- for a language pair, there may be more
  leave_line(job, best.index, has_one_index and next_place)
  local claim = take and take(job, node)
  if not claim and not has_own_message(job) then
    job.node_id = ''  -- no node has its message
    return false, mark_job_lost(job, 'its message is gone')
  end
  assign_waiting(job, node, pool, 'first_free', claim)
  if not claim then move_message(job, node.id) end
  return true
end

-- Fills the node's free slots with waiting jobs. Returns how many slots it filled, and whether more may be left to do
-- than one call does. See assign_first_in_line for `take`. `freed` slots are free since the last update_free_sets_of.
local function fill_slots(node_id, take, freed)
  local node, filled = read_working_node(node_id), 0
  if not node then return filled, false end
  node.taken = redis.call('ZCARD', key.node_jobs(node_id))
  node.was_full = node.taken + (freed or 0) == number(node[MAX_JOBS])
  local free = number(node[MAX_JOBS]) - node.taken
  local indexes = free > 0 and read_indexes(node)
  while filled < free do
    if not may_move() then return filled, true end
    local best = next_line(node_id, indexes)
    if not best then return filled, line_reads_left <= 0 end
    moves_left = moves_left - 1 - math.floor(#indexes / 8)  -- an assignment writes to each index of the node
    local is_assigned = assign_first_in_line(best, node, take)
    if is_assigned then filled = filled + 1 end
    if is_assigned and indexes.pools > 1 then
      redis.call('HSET', key.node_info(node_id), 'served ' .. best.pool, next_number(key.turn()))
    end
  end
  return filled, false
end

-- The same, if any job waits.
local function assign_waiting_jobs(node_id)
  if redis.call('EXISTS', key.lines()) == 0 then return 0, false end
  return fill_slots(node_id)
end
