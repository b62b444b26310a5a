-- include: heartbeats
-- include: events
-- include: load
-- include: pool
-- A node's slots, its indexes, its place in load order, and whether it takes jobs.
--
-- A node's advertised indexes (the field `offers`) are a line "pool<TAB>" for each of its pools, and a line
-- "pool<TAB>capability" for each capability in that pool. Each index has two keys: the set of its nodes, and the sorted
-- set of those with a free slot. So the best node for a rare capability in a large pool is the head of one sorted set.

local MOST_CLAIMS = 1000  -- jobs of a node to read when the node dies

local function members_key(pool, capability)
  if capability == '' then return key.pool_members(pool) end
  return key.capable_members(pool, capability)
end

local function free_key(pool, capability)
  if capability == '' then return key.pool_free(pool) end
  return key.capable_free(pool, capability)
end

-- Iterates over lines "one<TAB>other".
local function each_pair(text)
  return string.gmatch(text or '', '([^\t\n]+)\t([^\t\n]*)')
end

-- Load order is one number of 53 bits, the most that a double holds exactly. From the top:
--   12 bits  share of taken slots
--    2 bits  level of the load last reported
--   39 bits  when the node was last chosen, as a count of choices after a base
-- Python reads these numbers here.
local MOST_SHARE = 4095
local LOAD_RANGE = 4
local LAST_CHOSEN_RANGE = 549755813888

local function load_order(taken, max_jobs, load, last_chosen)
  local share = math.floor(taken * MOST_SHARE / max_jobs)
  local top = share * LOAD_RANGE + load_level(load)
  return top * LAST_CHOSEN_RANGE + math.max(0, math.min(last_chosen, LAST_CHOSEN_RANGE - 1))
end

-- The count of choices grows for ever. Load order uses its distance from a base that is the same for all nodes. The
-- base is at least half the range behind the count.
local function last_chosen_base(last_chosen)
  return math.max(0, math.floor(last_chosen * 2 / LAST_CHOSEN_RANGE) - 1) * LAST_CHOSEN_RANGE / 2
end

-- The fields of a node's record that its placement needs, and their positions in read_node's answer.
local ONLINE = 1
local DRAINING = 2
local MAX_JOBS = 3
local LOAD = 4
local TURN = 5
local OFFERS = 6
local TURN_BASE = 7
local LAST_HEARTBEAT = 8
local TERM = 9

-- A node's id, and these fields. A script that needs several of them reads them once.
local function read_node(node_id)
  local node = redis.call('HMGET', key.node_info(node_id),
    'online', 'draining', 'max_jobs', 'load', 'turn', 'offers', 'turn_base', 'last_heartbeat_ts', 'term')
  node.id = node_id
  return node
end

-- Writes to the free sets of nodes in this call. A node has up to 256 indexes.
local index_writes = 0

-- Puts the node into the free sets of its indexes while it is online, not draining and has a free slot. Else removes it
-- from them. Every script that changes a node calls this. A script that knows the number of taken slots sets
-- `node.taken`. `node.was_full` says that no slot was free at the last update. Returns the number of taken slots, and
-- when the node was last chosen, as a count after the base.
local function update_free_sets_of(node)
  local taken = node.taken or redis.call('ZCARD', key.node_jobs(node.id))
  if not node[MAX_JOBS] then return taken, 0 end
  if node.was_full and taken == number(node[MAX_JOBS]) then return taken, 0 end  -- nothing has changed
  attempt(redis.call, 'HSET', key.node_runtime(node.id), 'current_jobs', taken)
  local max_jobs, last_chosen = number(node[MAX_JOBS]), number(node[TURN]) - number(node[TURN_BASE])
  local order = node[ONLINE] == 'true' and node[DRAINING] ~= 'true' and taken < max_jobs
    and load_order(taken, max_jobs, number(node[LOAD]), last_chosen)
  for pool, capability in each_pair(node[OFFERS]) do
    index_writes = index_writes + 1
    if order then
      redis.call('ZADD', free_key(pool, capability), order, node.id)
    else
      redis.call('ZREM', free_key(pool, capability), node.id)
    end
  end
  return taken, last_chosen
end

local function update_free_sets(node_id) return update_free_sets_of(read_node(node_id)) end

-- Records that the node was chosen: it becomes the last of the nodes with the same share and load. Once in 2^38
-- choices, moves the base for all nodes in one step. So their order stays the same.
local function mark_chosen(node)
  node[TURN] = next_number(key.turn())
  redis.call('HSET', key.node_info(node.id), 'turn', node[TURN])
  local _, last_chosen = update_free_sets_of(node)
  if last_chosen < LAST_CHOSEN_RANGE then return end
  local base = string.format('%.0f', last_chosen_base(node[TURN]))
  for _, node_id in ipairs(redis.call('ZRANGE', key.nodes(), 0, -1)) do
    redis.call('HSET', key.node_info(node_id), 'turn_base', base)
    update_free_sets_of(read_node(node_id))
  end
end

-- Is the node's last heartbeat younger than node_ttl, by an unchanged clock?
local function is_fresh(node)
  local silence = NOW - number(node[LAST_HEARTBEAT])
  return silence >= 0 and silence <= TTL.node
end

-- Is the node's last heartbeat younger than node_ttl? If not, and if its silence counts, removes the node from
-- dispatch.
local function has_recent_heartbeat(node)
  if is_fresh(node) or correct_last_heartbeat(node.id, node[LAST_HEARTBEAT]) == NOW then return true end
  if number(node[LAST_HEARTBEAT]) == 0 then return false end  -- no record at all
  if does_silence_count() == false then return true end
  redis.call('HSET', key.node_info(node.id), 'online', 'false')
  update_free_sets(node.id)
  return false
end

-- The node's record if it is alive, or false. With `attempt`, a broken record counts as silent.
local function read_live_node(node_id)
  local node = read_node(node_id)
  return has_recent_heartbeat(node) and node
end

-- The first two nodes of a free set, each with its load order.
local function first_two_of(free) return redis.call('ZRANGE', free, 0, 1, 'WITHSCORES') end

-- Records in the node for `why`: the number of free nodes, the load order of the node, and the next best node with its
-- load order. No script reads it.
local function describe_choice(node, free, order, first_two)
  node.decision = redis.call('ZCARD', free) .. ' ' .. order
  if first_two[3] then node.decision = node.decision .. ' ' .. first_two[3] .. ' ' .. first_two[4] end
end

-- Was the node found silent? A node that has left in good order has no instance.
local function has_died(node_id)
  return tonumber(redis.call('ZSCORE', key.nodes(), node_id) or 0) < 0
    and redis.call('HGET', key.node_info(node_id), 'instance') ~= ''
end

-- Starts a new term of the node: its earlier claims are void. The answer to its next heartbeat has the term's number.
-- The number is new in the whole fleet, so a node whose record was forgotten gets no old number.
local function start_term(node_id)
  redis.call('HSET', key.node_info(node_id), 'term', next_number(key.turn()))
end

-- Records which jobs of a node that died may have begun there, and so may have killed it: as many as it runs at once,
-- the first that it claimed. "*" means all. The other jobs waited for a process or a thread.
local function record_suspects(node_id)
  local node = redis.call('HMGET', key.node_info(node_id), 'max_jobs', 'concurrency')
  local most = number(node[2] or node[1])
  local jobs = redis.call('ZRANGE', key.node_jobs(node_id), 0, MOST_CLAIMS - 1)
  local claimed, suspects = {}, {}
  if #jobs <= most then
    jobs, suspects = {}, {'*'}
  end
  for _, job_id in ipairs(jobs) do
    local job = redis.call('HMGET', key.job(job_id), 'status', 'started_ts')
    if job[1] == 'running' then
      local sequence = number(string.match(job_id, '%d+$'))
      table.insert(claimed, {id = job_id, at = number(job[2]), number = sequence})
    end
  end
  table.sort(claimed, function(one, other)
    if one.at ~= other.at then return one.at < other.at end
    return one.number < other.number
  end)
  for i = 1, math.min(most, #claimed) do suspects[i] = claimed[i].id end
  redis.call('HSET', key.node_info(node_id), 'suspects', table.concat(suspects, '\n'))
end

-- The record of a node that takes jobs, or false.
local function read_working_node(node_id)
  local node = read_node(node_id)
  return node[ONLINE] == 'true' and node[DRAINING] ~= 'true' and has_recent_heartbeat(node) and node
end
