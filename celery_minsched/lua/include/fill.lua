-- include: line
-- Which line a freed slot serves. In a pool, the line of the job with the first place: by priority, then by turn, then
-- by age. A node in several pools compares the priorities first. Among pools with the same priority it serves the pool
-- that it served longest ago.

-- What one call does at the most, however many wait; a heartbeat goes on from there.
local looks_left = 2000  -- indexes read, and lines looked at in vain
local nodes_left = 256   -- nodes
local moves_left = 100   -- jobs moved from lines to nodes, or from the delayed
local HEAD = 64          -- lines of an index that each search looks at

-- May this call move more jobs?
local function may_move() return moves_left > 0 and bytes_left > 0 and pools_looked < MOST_POOLS end

-- A node's indexes as it offers them, without those of paused pools, and as a set.
local function read_indexes(node_id)
  local indexes, paused = {pools = 0}, {}
  for pool, capability in lines(redis.call('HGET', key.node_info(node_id), 'offers')) do
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

local function has_all(indexes, pool, caps)
  if not indexes[pool .. '\t'] then return false end
  for _, capability in ipairs(caps) do
    if not indexes[pool .. '\t' .. capability] then return false end
  end
  return true
end

-- Files a line anew that does not belong in this index.
local function refile_line(line, index)
  redis.call('ZREM', index, line)
  file_line(line)
  return true
end

-- The pool, if the node can serve a line of this index of the pool; else nil, and whether the line has left the index.
-- A line that is filed wrongly, since its pools or its node have changed, is filed anew.
local function pool_at_index(indexes, pool, index, line)
  local where, caps, required = parse_line(line)
  if not has_all(indexes, pool, caps) then return nil end
  if where == pool and required == '' then return pool end
  looks_left = looks_left - 4
  local pools = pools_of(where)
  for _, name in ipairs(pools) do
    if name == pool and not is_for(required, pools, caps) then return pool end
  end
  return nil, refile_line(line, index)
end

-- The same of a line that waits for this node alone.
local function pool_at_node(indexes, node_id, line)
  local where, caps = parse_line(line)
  local pools = pools_of(where)
  for _, pool in ipairs(pools) do
    if has_all(indexes, pool, caps) then return pool end
  end
  looks_left = looks_left - 4
  if pool_in(node_id, pools, caps) then return nil end  -- the pool is paused
  return nil, refile_line(line, key.node_waiting(node_id))
end

-- The first line of an index that fits, with its place and the pool to serve it in, or nil. If this call looks at no
-- more lines, the node's next call goes on from there. After a search that found nothing, the node's calls look only
-- at the head of the index for a while.
local function first_in_index(node_id, index, name, fit)
  local at, count, reached, is_resumed = 0, 1, nil, false
  while looks_left > 0 do
    local found, left = redis.call('ZRANGE', index, at, at + count - 1, 'WITHSCORES'), 0
    for i = 1, #found, 2 do
      local pool, has_left = fit(found[i])
      if has_left then left = left + 1 end
      if pool then
        if at > HEAD then redis.call('HDEL', key.node_searches(node_id), name) end
        return {line = found[i], place = tonumber(found[i + 1]), pool = pool}
      end
    end
    looks_left = looks_left - 1 - #found / 2
    if #found < 2 * count then
      reached = 'end'
      break
    end
    at = at + count - left
    if count == 1 then
      count = HEAD
    elseif not is_resumed then
      is_resumed = true
      local before = redis.call('HGET', key.node_searches(node_id), name)
      if before == 'end' then return nil end
      at = math.max(at, number(before))
    end
  end
  if at <= HEAD then return nil end
  redis.call('HSET', key.node_searches(node_id), name, reached or at)
  if redis.call('PTTL', key.node_searches(node_id)) == -1 then
    redis.call('PEXPIRE', key.node_searches(node_id), TTL.node)
  end
end

-- The first of some lines, each of another pool of the node.
local function first_of_pools(node_id, found)
  local fields = {}
  for i, each in ipairs(found) do fields[i] = 'served ' .. each.pool end
  local served = redis.call('HMGET', key.node_info(node_id), unpack(fields))
  local best, best_band, best_served
  for i, each in ipairs(found) do
    local band, last = math.floor(each.place / BAND), number(served[i])
    if not best or band < best_band or (band == best_band and last < best_served) then
      best, best_band, best_served = each, band, last
    end
  end
  return best
end

-- The line that the node serves next, with the pool to serve it in.
local function next_line(node_id, indexes)
  local found, at = {}, {}  -- the first line of each pool
  local function compare(first)
    if not first then return end
    if not at[first.pool] then
      at[first.pool] = #found + 1
      table.insert(found, first)
    elseif first.place < found[at[first.pool]].place then
      found[at[first.pool]] = first
    end
  end
  for _, index in ipairs(indexes) do
    local pool, capability = index[1], index[2]
    local waiting = waiting_key(pool, capability)
    compare(attempt(first_in_index, node_id, waiting, pool .. '\t' .. capability, function(line)
      return pool_at_index(indexes, pool, waiting, line)
    end))
  end
  -- Last: a line that was filed in a pool may be filed at the node now.
  compare(first_in_index(node_id, key.node_waiting(node_id), '', function(line)
    return pool_at_node(indexes, node_id, line)
  end))
  return #found > 1 and first_of_pools(node_id, found) or found[1]
end

-- Gives the slot to the first job in line. A job whose message is gone is lost. Returns whether the slot was taken.
local function serve_line(line, node_id, pool)
  local ticket, place = first_in_line(line)
  if not ticket then  -- Redis has lost its jobs
    rank_line(line)
    return false
  end
  local job = attempt(read_job, string.match(ticket, ' (.*)$') or '')
  if not job then
    leave_line({line = line, ticket = ticket})
    return false
  end
  job.line, job.ticket, job.band = line, ticket, math.floor(place / BAND)
  leave_clocks(job, place, pool)
  leave_line(job)
  if not is_parked(job) then
    job.node_id = ''  -- no node has its message either
    lose_job(job, 'its message is gone')
    return false
  end
  give_slot(job, node_id, pool, 'first_free')
  move_message(job, node_id)
  return true
end

-- Fills the node's free slots from the lines that it can serve. Returns how many it filled, and whether
-- there may be more to do than one call does.
local function fill_node(node_id)
  local filled = 0
  local slots = redis.call('EXISTS', key.lines()) == 1 and takes_jobs(node_id)
  if not slots then return filled, false end
  local free = slots - redis.call('ZCARD', key.node_jobs(node_id))
  local indexes = free > 0 and read_indexes(node_id)
  while filled < free do
    if not may_move() then return filled, true end
    local best = next_line(node_id, indexes)
    if not best then return filled, looks_left <= 0 end
    moves_left = moves_left - 1 - math.floor(#indexes / 8)  -- a node is placed in each of its indexes
    if serve_line(best.line, node_id, best.pool) then
      filled = filled + 1
      if indexes.pools > 1 then
        redis.call('HSET', key.node_info(node_id), 'served ' .. best.pool, next_number(key.turn()))
      end
    end
  end
  return filled, false
end
