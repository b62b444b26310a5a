-- include: assignment
-- include: offers
-- Moves lines to their right indexes after the pools of a language pair have changed, or after a node takes no more
-- jobs. One call moves a bounded number of lines, and heartbeats continue with the rest.
--
-- `key.relinking` has the rest. Its fields are "pair zh:en" (the lines that wait for the pair), "pool asr" (the lines
-- that wait for a pair of the pool), and "node n1" (the lines that wait for this node alone). A value is a cursor. It
-- ends with " again" if there was another change since the scan began.

local index_entries_left = 96  -- entries of lines in indexes
local SCAN_COUNT = 8           -- lines read at a time

-- Assigns waiting jobs to free nodes of some pools.
local function assign_in_pools(pools)
  for _, pool in ipairs(pools) do
    if nodes_left <= 0 then return end
    for _, node_id in ipairs(redis.call('ZRANGE', key.pool_free(pool), 0, nodes_left - 1)) do
      if line_reads_left <= 0 or not may_move() then return end
      nodes_left = nodes_left - 1
      attempt(assign_waiting_jobs, node_id)
    end
  end
end

-- Indexes some lines again, and adds their pools to `pools`.
local function index_lines(lines, pools)
  for _, line in ipairs(lines) do
    local _, entries = string.gsub(redis.call('HGET', key.lines(), line) or '', '\n', '')
    local pools_of_line = attempt(index_line, line) or {}
    index_entries_left = index_entries_left - math.max(1, entries, #pools_of_line)
    for _, pool in ipairs(pools_of_line) do
      if not pools[pool] then pools[#pools + 1] = pool end
      pools[pool] = true
    end
  end
end

local function reindex_later(field, lines_key)
  if redis.call('EXISTS', lines_key) == 0 then return end
  local cursor = redis.call('HGET', key.relinking(), field)
  redis.call('HSET', key.relinking(), field, cursor and (string.match(cursor, '^%d+') or '0') .. ' again' or '0')
end

local function reindex_pair_later(pool, pair)
  reindex_later('pair ' .. pair, key.lang_waiting(pair))
  reindex_later('pool ' .. pool, key.pool_langs_waiting(pool))
end

-- Some lines of a field of `key.relinking`. Returns the next cursor, and the lines.
local function scan_lines(kind, name, cursor)
  if kind ~= 'node' then
    local set = kind == 'pair' and key.lang_waiting(name) or key.pool_langs_waiting(name)
    return unpack(redis.call('SSCAN', set, cursor, 'COUNT', SCAN_COUNT))
  end
  local next_cursor, scored = unpack(redis.call('ZSCAN', key.node_waiting(name), cursor, 'COUNT', SCAN_COUNT))
  local lines = {}
  for i = 1, #scored, 2 do lines[#lines + 1] = scored[i] end
  return next_cursor, lines
end

-- Continues with the lines of `key.relinking`. Returns whether more are left.
local function reindex_some_lines()
  local pools = {}
  while index_entries_left > 0 do
    local field = redis.call('HRANDFIELD', key.relinking())
    if not field then break end
    local kind, name = string.match(field, '^(%a+) (.*)$')
    local cursor, again = string.match(redis.call('HGET', key.relinking(), field), '^(%d+)(.*)$')
    local next_cursor, lines = '0', {}
    if name and cursor and #cursor < 20 then next_cursor, lines = scan_lines(kind, name, cursor) end
    if next_cursor ~= '0' then
      redis.call('HSET', key.relinking(), field, next_cursor .. again)
    elseif (again or '') ~= '' then
      redis.call('HSET', key.relinking(), field, '0')
    else
      redis.call('HDEL', key.relinking(), field)
    end
    index_lines(lines, pools)
    index_entries_left = index_entries_left - 1
  end
  assign_in_pools(pools)
  return redis.call('EXISTS', key.relinking()) == 1
end

-- Notes the language pairs whose pools this call has changed, and continues. Returns whether more lines are left.
local function reindex_changed_pairs()
  for _, change in pairs(changed_pairs) do reindex_pair_later(change[1], change[2]) end
  return reindex_some_lines()
end

-- The node takes no jobs, or its advertised indexes have changed. Indexes the lines that wait for this node alone
-- again. If they no longer need the node, they wait for any node of their pools.
local function release_lines_of_node(node_id)
  reindex_later('node ' .. node_id, key.node_waiting(node_id))
  reindex_some_lines()
end
