-- include: demand
-- include: job
-- Jobs in line. A line is named by what must be true of the node: "where/caps/required node".
--
-- A job's place in line is computed once, when it joins: its priority, then its turn. Turns are
-- start-time fair queueing (Goyal, Vin and Cheng, 1996) with all weights equal: each fairness key
-- (a session, a tenant) has at most one job in each turn, so one that floods stands behind itself
-- and nobody else. Between lines that compete for a slot, the one that was served longest ago is next.

local BAND = 281474976710656  -- 2^48: the priorities' part of a place stands above the turns'
local MOST_LINES = 256        -- lines of one pool that a freed slot looks at
local MOST_JOBS = 100         -- jobs that one call moves to a node

local function parse_line(line)
  local where, caps, required = string.match(line, '^([^/]*)/([^/]*)/(.*)$')
  return where, split(caps, '[^,]+'), required
end

-- The sets in which the slots that can serve the line find it.
local function link_to_pools(line)
  local where = parse_line(line)
  local pool, langs = parse_where(where)
  local pools = pools_of(where)
  if pool then pools = {pool} end  -- also while it does not serve the pair yet
  for _, name in ipairs(pools) do
    redis.call('ZADD', key.pool_waiting(name), 'NX', redis.call('INCR', key.turn()), line)
  end
  if not pool then
    for _, pair in ipairs(langs) do redis.call('SADD', key.lang_waiting(pair), line) end
  end
  return pools
end

local function link_line(line)
  local _, _, required = parse_line(line)
  if required == '' then
    link_to_pools(line)
    return
  end
  redis.call('ZADD', key.node_waiting(required), 'NX', redis.call('INCR', key.turn()), line)
end

local function unlink_line(line)
  local where, _, required = parse_line(line)
  local pool, langs = parse_where(where)
  local pools = pools_of(where)
  if pool then pools = {pool} end
  for _, name in ipairs(pools) do redis.call('ZREM', key.pool_waiting(name), line) end
  for _, pair in ipairs(langs) do redis.call('SREM', key.lang_waiting(pair), line) end
  if required ~= '' then redis.call('ZREM', key.node_waiting(required), line) end
end

local function line_of(job, required) return job.where .. '/' .. job.caps .. '/' .. required end

-- Joins the line. A job that stood in one before (its node handed it back) goes to the head.
local function join_line(job, required)
  local line = line_of(job, required)
  if redis.call('HSETNX', key.lines(), line, 0) == 1 then link_line(line) end
  local turn = tonumber(redis.call('HGET', key.lines(), line))
  if job.ticket == '' then
    local own = tonumber(redis.call('ZSCORE', key.line_turns(line), job.fairness) or 0)
    turn = math.max(turn, own)
    redis.call('ZADD', key.line_turns(line), turn + 1, job.fairness)
  end
  -- Among equals the older job is first: ids end with a number that counts up.
  local number = tonumber(string.match(job.id, '(%d+)$'))
  local ticket = string.format('%015.0f', number) .. ' ' .. job.id
  local place = string.format('%.0f', tonumber(job.band) * BAND + turn)
  redis.call('ZADD', key.waiting(line), place, ticket)
  redis.call('HSET', key.job(job.id), 'status', 'waiting', 'line', line, 'ticket', ticket)
  redis.call('HSETNX', key.job(job.id), 'waiting_ts', NOW)
  keep_record(job)
end

local function leave_line(job)
  redis.call('ZREM', key.waiting(job.line), job.ticket)
  if redis.call('EXISTS', key.waiting(job.line)) == 0 then
    redis.call('HDEL', key.lines(), job.line)
    redis.call('DEL', key.line_turns(job.line))
    unlink_line(job.line)
  end
end

-- The pool in which the node can serve the line, or nil. A line for one node is anyone's while that
-- node is not there to work.
local function pool_for_line(node_id, line)
  local where, caps, required = parse_line(line)
  if required ~= '' and required ~= node_id and takes_jobs(required) then return nil end
  return pool_in(node_id, pools_of(where), caps)
end

-- The line whose turn it is at this node, and the pool to serve it in.
local function next_line(node_id)
  local best, best_turn, best_pool
  local function look_in(set)
    local found = redis.call('ZRANGE', set, 0, MOST_LINES - 1, 'WITHSCORES')
    for i = 1, #found, 2 do
      local line, turn = found[i], tonumber(found[i + 1])
      if best and turn >= best_turn then return end
      if redis.call('HEXISTS', key.lines(), line) == 0 then
        redis.call('ZREM', set, line)  -- the pool did not serve the pair any more when it emptied
      else
        local pool = pool_for_line(node_id, line)
        if pool then
          best, best_turn, best_pool = line, turn, pool
          return
        end
      end
    end
  end
  for pool, capability in lines(redis.call('HGET', key.node_info(node_id), 'offers')) do
    if capability == '' then look_in(key.pool_waiting(pool)) end
  end
  look_in(key.node_waiting(node_id))
  return best, best_pool
end

-- Gives the slot to the first in line; one whose message is gone is struck off.
local function serve_line(line, node_id, pool)
  local head = redis.call('ZRANGE', key.waiting(line), 0, 0, 'WITHSCORES')
  local job = read_job(string.match(head[1], ' (.*)$'))
  job.line, job.ticket = line, head[1]
  local turn = math.max(tonumber(head[2]) % BAND, tonumber(redis.call('HGET', key.lines(), line)))
  redis.call('HSET', key.lines(), line, string.format('%.0f', turn))
  redis.call('ZREMRANGEBYSCORE', key.line_turns(line), '-inf', turn)
  local where, _, required = parse_line(line)
  local served = redis.call('INCR', key.turn())
  for _, name in ipairs(pools_of(where)) do
    redis.call('ZADD', key.pool_waiting(name), 'XX', served, line)
  end
  if required ~= '' then redis.call('ZADD', key.node_waiting(required), 'XX', served, line) end
  leave_line(job)
  if not is_parked(job) then return lose_job(job, 'its message is gone') end
  give_slot(job, node_id, pool, 'first_free')
  move_message(job, node_id)
end

-- Fills the node's free slots from the lines that it can serve. Returns true where there may be more
-- to do than one call does.
local function fill_node(node_id)
  for _ = 1, MOST_JOBS do
    if redis.call('EXISTS', key.lines()) == 0 or not takes_jobs(node_id) then return false end
    local max_jobs = tonumber(redis.call('HGET', key.node_info(node_id), 'max_jobs'))
    if redis.call('ZCARD', key.node_jobs(node_id)) >= max_jobs then return false end
    local line, pool = next_line(node_id)
    if not line then return false end
    serve_line(line, node_id, pool)
  end
  return true
end

-- Fills the free nodes of pools that have come to serve a line.
local function fill_pools(pools)
  if redis.call('EXISTS', key.lines()) == 0 then return end
  for _, pool in ipairs(pools) do
    for _, node_id in ipairs(redis.call('ZRANGE', key.pool_free(pool), 0, MOST_JOBS - 1)) do
      fill_node(node_id)
    end
  end
end

-- The node is not there to work: those who wait for it alone wait for any node of their pools too.
local function open_lines(node_id)
  for _, line in ipairs(redis.call('ZRANGE', key.node_waiting(node_id), 0, MOST_LINES - 1)) do
    fill_pools(link_to_pools(line))
  end
end

-- Places a job whose message is parked: at a node that has a slot, or in line, or among the delayed.
-- A slot that it held is freed. Returns what became of it.
local function place_parked(job)
  if job.where == '' then  -- Redis has lost what it asks for; who reads its message can tell again
    local freed = free_slot(job)
    lose_job(job, 'what it asks for was lost')
    if freed then fill_node(freed) end
    return 'lost'
  end
  redis.call('ZREM', key.parking(), job.id)
  redis.call('ZREM', key.delayed(), job.id)
  if tonumber(job.due_ts) > NOW then
    redis.call('ZADD', key.delayed(), job.due_ts, job.id)
    redis.call('HSET', key.job(job.id), 'status', 'delayed')
    keep_record(job)
    return 'delayed'
  end
  local freed = free_slot(job)
  local caps, session, pools = split(job.caps, '[^,]+'), read_session(job.session_id), pools_of(job.where)
  local required = required_node(job, session, pools, caps)
  local node_id, pool, chosen_by = choose_node(job, session, pools, caps, required)
  if node_id then
    give_slot(job, node_id, pool, chosen_by)
    move_message(job, node_id)
  else
    join_line(job, required)
  end
  if freed then fill_node(freed) end
  return node_id and 'dispatched' or 'waiting'
end

-- The message of a job that has ended was put back. That of one revoked or expired has yet to tell the
-- caller, at the next node that is heard; any other came twice.
local function settle_ended(job)
  local reason = redis.call('HGET', key.job(job.id), 'reason')
  if reason == 'revoked' or reason == 'expired' then
    redis.call('HSET', key.job(job.id), 'status', 'parking')
    redis.call('ZADD', key.expiring(), 0, job.id)
  else
    redis.call('DEL', parked_list(job))
  end
end

-- Hands the message of a job that will not run (revoked, expired) to a node, whose worker finds that
-- out by Celery's own rules and tells the caller. It takes no slot.
local function discard_job(job, node_id, reason)
  if not PARKED[job.status] or not is_parked(job) then return false end
  if job.status == 'waiting' then leave_line(job) end
  redis.call('ZREM', key.parking(), job.id)
  redis.call('ZREM', key.delayed(), job.id)
  redis.call('ZREM', key.expiring(), job.id)
  redis.call('HSET', key.job(job.id), 'node_id', node_id)
  end_job(job, 'failed', reason)
  move_message(job, node_id)
  return true
end
