-- include: demand
-- include: fair_queue
-- The indexes in which a node with a free slot finds lines. A line is the queue of the jobs with one demand. Its name
-- lists the requirements for a node: "pool selector/capabilities/required node".
--
-- In each of its pools, a line is in the index of the capability that the fewest nodes of the pool have. A line
-- without capabilities is in the index of the pool. So a node reads only its advertised indexes, and finds few
-- lines there that it cannot serve. A line with a required node is at that node while the node takes jobs.
--
-- `key.lines` has the indexes of each line, in the format of a node's advertised indexes. The score of a line in an
-- index is the place of its first job. For a language pair, it is that job's place in the index's pool.

local function parse_line(line)
  local pool_selector, capabilities, required = string.match(line, '^([^/]*)/([^/]*)/(.*)$')
  if not pool_selector then return line, {}, '' end  -- not a line: no pool matches, so it leaves the index
  return pool_selector, split(capabilities, '[^,]+'), required
end

local function waiting_key(pool, capability)
  if capability == '' then return key.pool_waiting(pool) end
  return key.capable_waiting(pool, capability)
end

-- The capability in whose index a line is, "" if the line has none.
local function index_capability(pool, capabilities)
  local best = rarest_capability(capabilities, function(capability) return members_key(pool, capability) end, 'SCARD')
  return best
end

-- The queue entry of a line's first job, the job's place, and the place of the next job. An entry is "number job_id".
local function first_in_line(line)
  local first_two = attempt(redis.call, 'ZRANGE', key.waiting(line), 0, 1, 'WITHSCORES') or {}
  return first_two[1], first_two[2], first_two[4]
end

local function job_of_entry(queue_entry) return string.match(queue_entry, ' (.*)$') or '' end

-- The places of a line's first job in pools. A pool may serve the job's language pair only since the job joined. Then
-- the job gets its virtual time in that pool now.
local function places_in(pools, line, queue_entry, place)
  local places, pool_selector = {}, parse_line(line)
  if parse_selector(pool_selector) then
    for _, pool in ipairs(pools) do places[pool] = place end
    return places
  end
  local job_id = job_of_entry(queue_entry)
  local job = key.job(job_id)
  local status, stored, fairness_key = unpack(attempt(redis.call, 'HMGET', job, 'status', 'places', 'fairness') or {})
  for pool, at in each_pair(stored or '') do places[pool] = to_place(0, number(at)) end
  local priority_step, added = math.floor(place / PRIORITY_UNIT), ''
  for _, pool in ipairs(pools) do
    if not places[pool] and not status then
      places[pool] = place
    elseif not places[pool] then
      places[pool] = to_place(priority_step, join_clock(pool, priority_step, fairness_key or ''))
      added = added .. pool .. '\t' .. places[pool] .. '\n'
    end
  end
  if added ~= '' then
    write_clocks()
    redis.call('HSET', job, 'places', (stored or '') .. added)
  end
  return places
end

-- Removes a line from all indexes of pools.
local function unindex_line(line)
  for pool, capability in each_pair(redis.call('HGET', key.lines(), line) or '') do
    redis.call('ZREM', waiting_key(pool, capability), line)
  end
end

-- Adds a line to its indexes, also again after its pools or its node may have changed. Returns its pools, none for a
-- line at one node.
local function index_line(line)
  local pool_selector, capabilities, required = parse_line(line)
  local pool, language_pairs = parse_selector(pool_selector)
  local pools = pools_of(pool_selector)
  local queue_entry, place = first_in_line(line)
  if not place then return {} end
  for _, pair in ipairs(language_pairs) do redis.call('SADD', key.lang_waiting(pair), line) end
  if pool and #language_pairs > 0 then redis.call('SADD', key.pool_langs_waiting(pool), line) end
  local indexes = {}
  if can_serve(required, pools, capabilities) then
    local home = pool_of_node(required, pools, capabilities)
    redis.call('ZADD', key.node_waiting(required), places_in({home}, line, queue_entry, place)[home], line)
    pools = {}
  elseif required ~= '' then
    redis.call('ZREM', key.node_waiting(required), line)
  end
  for i, name in ipairs(pools) do indexes[i] = name .. '\t' .. index_capability(name, capabilities) .. '\n' end
  indexes = table.concat(indexes)
  if redis.call('HGET', key.lines(), line) ~= indexes then
    unindex_line(line)
    redis.call('HSET', key.lines(), line, indexes)
  end
  local places = places_in(pools, line, queue_entry, place)
  for name, capability in each_pair(indexes) do
    redis.call('ZADD', waiting_key(name, capability), places[name], line)
  end
  return pools
end

-- Updates a line after its first job may have changed. Removes a line without jobs.
local function update_line(line)
  local _, place = first_in_line(line)
  local pool_selector, _, required = parse_line(line)
  if place and not parse_selector(pool_selector) then
    index_line(line)
    return
  elseif place then
    for pool, capability in each_pair(redis.call('HGET', key.lines(), line) or '') do
      redis.call('ZADD', waiting_key(pool, capability), 'XX', place, line)
    end
    if required ~= '' then redis.call('ZADD', key.node_waiting(required), 'XX', place, line) end
    return
  end
  unindex_line(line)
  redis.call('HDEL', key.lines(), line)
  local pool, language_pairs = parse_selector(pool_selector)
  for _, pair in ipairs(language_pairs) do redis.call('SREM', key.lang_waiting(pair), line) end
  if pool and #language_pairs > 0 then redis.call('SREM', key.pool_langs_waiting(pool), line) end
  if required ~= '' then redis.call('ZREM', key.node_waiting(required), line) end
end
