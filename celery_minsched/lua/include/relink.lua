-- include: fill
-- Files lines anew after the pools of a language pair have changed, or a node takes no more jobs: a bounded number of
-- lines in a call. Heartbeats go on with the rest, which stands in a hash. Its fields are "pair zh:en", the lines that
-- wait for the pair, "pool asr", the lines that wait for a pair of the pool, and "node n1", the lines that wait for
-- this node alone. A value is a cursor, with " again" if there was another change since the walk began.

local links_left = 96   -- entries of lines in indexes
local FEW = 8           -- lines scanned at a time

-- Fills the free nodes of pools.
local function fill_pools(pools)
  for _, pool in ipairs(pools) do
    if nodes_left <= 0 then return end
    for _, node_id in ipairs(redis.call('ZRANGE', key.pool_free(pool), 0, nodes_left - 1)) do
      if looks_left <= 0 or not may_move() then return end
      nodes_left = nodes_left - 1
      attempt(fill_node, node_id)
    end
  end
end

-- Files lines anew, and notes the pools that serve them now.
local function spread_lines(found, pools)
  for _, line in ipairs(found) do
    local _, links = string.gsub(redis.call('HGET', key.lines(), line) or '', '\n', '')
    local now = attempt(file_line, line) or {}
    links_left = links_left - math.max(1, links, #now)
    for _, pool in ipairs(now) do
      if not pools[pool] then pools[#pools + 1] = pool end
      pools[pool] = true
    end
  end
end

local function relink_later(index, lines_key)
  if redis.call('EXISTS', lines_key) == 0 then return end
  local cursor = redis.call('HGET', key.relinking(), index)
  redis.call('HSET', key.relinking(), index, cursor and (string.match(cursor, '^%d+') or '0') .. ' again' or '0')
end

local function relink_pair(pool, pair)
  relink_later('pair ' .. pair, key.lang_waiting(pair))
  relink_later('pool ' .. pool, key.pool_langs_waiting(pool))
end

-- Some of these lines, and the cursor to the next.
local function scan_lines(kind, name, cursor)
  if kind ~= 'node' then
    local set = kind == 'pair' and key.lang_waiting(name) or key.pool_langs_waiting(name)
    return unpack(redis.call('SSCAN', set, cursor, 'COUNT', FEW))
  end
  local rest, scored = unpack(redis.call('ZSCAN', key.node_waiting(name), cursor, 'COUNT', FEW))
  local found = {}
  for i = 1, #scored, 2 do found[#found + 1] = scored[i] end
  return rest, found
end

-- Files some more of these lines anew. Returns whether more are left.
local function relink_lines()
  local pools = {}
  while links_left > 0 do
    local index = redis.call('HRANDFIELD', key.relinking())
    if not index then break end
    local kind, name = string.match(index, '^(%a+) (.*)$')
    local cursor, again = string.match(redis.call('HGET', key.relinking(), index), '^(%d+)(.*)$')
    local rest, found = '0', {}
    if name and cursor and #cursor < 20 then rest, found = scan_lines(kind, name, cursor) end
    if rest ~= '0' then
      redis.call('HSET', key.relinking(), index, rest .. again)
    elseif (again or '') ~= '' then
      redis.call('HSET', key.relinking(), index, '0')
    else
      redis.call('HDEL', key.relinking(), index)
    end
    spread_lines(found, pools)
    links_left = links_left - 1
  end
  fill_pools(pools)
  return redis.call('EXISTS', key.relinking()) == 1
end

-- This call has changed which pools serve which pairs.
local function relink_changed()
  for _, change in pairs(changed_pairs) do relink_pair(change[1], change[2]) end
  return relink_lines()
end

-- The node takes no jobs, or its offers have changed. Files the lines that wait for this node alone anew: if they need
-- it no more, they wait for any node of their pools.
local function open_lines(node_id)
  relink_later('node ' .. node_id, key.node_waiting(node_id))
  relink_lines()
end
