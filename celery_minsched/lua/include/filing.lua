-- include: demand
-- include: turns
-- Where freed slots find a line. A line is named by what must be true of the node: "where/caps/required node".
-- It is filed in each of its pools, in the index of the capability that the fewest nodes of the pool have. A line
-- without capabilities is filed in the index of the pool. So a node looks at the indexes that it offers, and meets
-- few lines that it cannot serve. A line for one node is filed at the node, while the node takes jobs.
--
-- `key.lines` has for each line the indexes in which it is filed, as a node's `offers`. The score of a line in
-- an index is the place of its first job: for a language pair, that job's place in the index's pool.

local function parse_line(line)
  local where, caps, required = string.match(line, '^([^/]*)/([^/]*)/(.*)$')
  if not where then return line, {}, '' end  -- no line: it is found nowhere, and leaves the index
  return where, split(caps, '[^,]+'), required
end

local function waiting_key(pool, capability)
  if capability == '' then return key.pool_waiting(pool) end
  return key.capable_waiting(pool, capability)
end

-- The capability that the fewest nodes of the pool have, "" if none is asked for.
local function rarest(pool, caps)
  local best = with_fewest(caps, function(capability) return members_key(pool, capability) end, 'SCARD')
  return best
end

-- The first job of a line, as its ticket, and the job's place.
local function first_in_line(line)
  local first = attempt(redis.call, 'ZRANGE', key.waiting(line), 0, 0, 'WITHSCORES') or {}
  return first[1], first[2]
end

-- The places of a line's first job in pools. A job for a language pair takes its turn in a pool that has come to
-- serve the pair when it is filed there.
local function places_in(pools, line, ticket, place)
  local places, where = {}, parse_line(line)
  if parse_where(where) then
    for _, pool in ipairs(pools) do places[pool] = place end
    return places
  end
  local job_id = string.match(ticket, ' (.*)$') or ''
  local job = key.job(job_id)
  local status, known, fairness = unpack(attempt(redis.call, 'HMGET', job, 'status', 'places', 'fairness') or {})
  for pool, at in lines(known or '') do places[pool] = place_of(0, number(at)) end
  local band, added = math.floor(place / BAND), ''
  for _, pool in ipairs(pools) do
    if not places[pool] and not status then
      places[pool] = place
    elseif not places[pool] then
      places[pool] = place_of(band, take_turn(pool, band, fairness or ''))
      added = added .. pool .. '\t' .. places[pool] .. '\n'
    end
  end
  if added ~= '' then
    write_clocks()
    redis.call('HSET', job, 'places', (known or '') .. added)
  end
  return places
end

-- Takes the line out of all indexes.
local function withdraw_line(line)
  for pool, capability in lines(redis.call('HGET', key.lines(), line) or '') do
    redis.call('ZREM', waiting_key(pool, capability), line)
  end
end

-- Files a line, or files it anew after its pools or its node may have changed. Returns its pools, none for a
-- line at one node.
local function file_line(line)
  local where, caps, required = parse_line(line)
  local pool, langs = parse_where(where)
  local pools = pools_of(where)
  local ticket, place = first_in_line(line)
  if not place then return {} end
  for _, pair in ipairs(langs) do redis.call('SADD', key.lang_waiting(pair), line) end
  if pool and #langs > 0 then redis.call('SADD', key.pool_langs_waiting(pool), line) end
  local indexes = {}
  if is_for(required, pools, caps) then
    local home = pool_in(required, pools, caps)
    redis.call('ZADD', key.node_waiting(required), places_in({home}, line, ticket, place)[home], line)
    pools = {}
  elseif required ~= '' then
    redis.call('ZREM', key.node_waiting(required), line)
  end
  for i, name in ipairs(pools) do indexes[i] = name .. '\t' .. rarest(name, caps) .. '\n' end
  indexes = table.concat(indexes)
  if redis.call('HGET', key.lines(), line) ~= indexes then
    withdraw_line(line)
    redis.call('HSET', key.lines(), line, indexes)
  end
  local places = places_in(pools, line, ticket, place)
  for name, capability in lines(indexes) do
    redis.call('ZADD', waiting_key(name, capability), places[name], line)
  end
  return pools
end

-- The line's first job may be another one now. A line without jobs is gone.
local function rank_line(line)
  local _, place = first_in_line(line)
  local where, _, required = parse_line(line)
  if place and not parse_where(where) then
    file_line(line)
    return
  elseif place then
    for pool, capability in lines(redis.call('HGET', key.lines(), line) or '') do
      redis.call('ZADD', waiting_key(pool, capability), 'XX', place, line)
    end
    if required ~= '' then redis.call('ZADD', key.node_waiting(required), 'XX', place, line) end
    return
  end
  withdraw_line(line)
  redis.call('HDEL', key.lines(), line)
  local pool, langs = parse_where(where)
  for _, pair in ipairs(langs) do redis.call('SREM', key.lang_waiting(pair), line) end
  if pool and #langs > 0 then redis.call('SREM', key.pool_langs_waiting(pool), line) end
  if required ~= '' then redis.call('ZREM', key.node_waiting(required), line) end
end
