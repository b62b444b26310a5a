-- include: demand
-- include: job
-- Jobs in line. A line is named by what must be true of the node: "where/caps/required node".
--
-- A job's place in line is computed once, when it joins: its priority, then its turn. Turns are
-- start-time fair queueing (Goyal, Vin and Cheng, 1996) with all weights equal: each fairness key
-- (a session, a tenant) has at most one job in each turn, so one that floods stands behind itself
-- and nobody else. Between lines that compete for a slot, the one that was served longest ago is next.

local BAND = 281474976710656  -- 2^48: the priorities' part of a place stands above the turns'
-- What one call does at the most, however many wait; a heartbeat goes on from there.
local MOST_LOOKS = 256         -- lines looked at in vain, and nodes
local looks_left = MOST_LOOKS
local moves_left = 100         -- jobs moved from lines to nodes, or from the delayed

local function parse_line(line)
  local where, caps, required = string.match(line, '^([^/]*)/([^/]*)/(.*)$')
  return where, split(caps, '[^,]+'), required
end

-- Puts a line where the slots that can serve it find it: at the one node that it is for, while that is
-- there to work, or else in its pools. Called again when that may have changed. Returns the pools.
local function link_line(line)
  local where, caps, required = parse_line(line)
  local pool, langs = parse_where(where)
  local pools = pools_of(where)
  for _, pair in ipairs(langs) do redis.call('SADD', key.lang_waiting(pair), line) end
  if pool and #langs > 0 then redis.call('SADD', key.pool_langs_waiting(pool), line) end
  if is_for(required, pools, caps) then
    redis.call('ZADD', key.node_waiting(required), 'NX', redis.call('INCR', key.turn()), line)
    return {}
  end
  if required ~= '' then redis.call('ZREM', key.node_waiting(required), line) end
  for _, name in ipairs(pools) do
    redis.call('ZADD', key.pool_waiting(name), 'NX', redis.call('INCR', key.turn()), line)
  end
  return pools
end

-- Where it stands in a pool that does not serve it any more, a node of that pool strikes it off.
local function unlink_line(line)
  local where, _, required = parse_line(line)
  local pool, langs = parse_where(where)
  for _, name in ipairs(pools_of(where)) do redis.call('ZREM', key.pool_waiting(name), line) end
  for _, pair in ipairs(langs) do redis.call('SREM', key.lang_waiting(pair), line) end
  if pool then redis.call('SREM', key.pool_langs_waiting(pool), line) end
  if required ~= '' then redis.call('ZREM', key.node_waiting(required), line) end
end

local function line_of(job, required) return job.where .. '/' .. job.caps .. '/' .. required end

-- The turn of the first in line of a priority, nil for none.
local function first_turn(line, band)
  local first = redis.call('ZRANGEBYSCORE', key.waiting(line), band * BAND,
    string.format('(%.0f', (band + 1) * BAND), 'WITHSCORES', 'LIMIT', 0, 1)
  return first[2] and tonumber(first[2]) - band * BAND
end

-- Has jobs join their line, all of them one line and one priority, in this order. A job that a node hands
-- back goes to the head. A job whose task asks for its message again takes the next turn of its key.
local function join_line(jobs)
  local line, band = jobs[1].line, jobs[1].band
  if redis.call('HSETNX', key.lines(), line, NOW) == 1 then link_line(line) end
  local head = first_turn(line, tonumber(band)) or 0
  local turns, places = {}, {}
  for _, job in ipairs(jobs) do
    local turn = head
    if job.node_id == '' or job.is_requeued then
      local own = turns[job.fairness] or redis.call('ZSCORE', key.line_turns(line, band), job.fairness)
      turn = math.max(head, tonumber(own or 0))
      turns[job.fairness] = turn + 1
    end
    -- Among equals the older job is first: ids end with a number that counts up.
    local number = tonumber(string.match(job.id, '(%d+)$'))
    local ticket = string.format('%015.0f', number) .. ' ' .. job.id
    places[#places + 1] = string.format('%.0f', band * BAND + turn)
    places[#places + 1] = ticket
    local fields = {'status', 'waiting', 'line', line, 'ticket', ticket}
    if (job.waiting_ts or '') == '' then
      fields[7], fields[8] = 'waiting_ts', NOW
      tell('job_waited', 'job', job.id, 'task', job.task_id, 'line', line)
    end
    redis.call('HSET', key.job(job.id), unpack(fields))
  end
  redis.call('ZADD', key.waiting(line), unpack(places))
  for fairness, turn in pairs(turns) do
    redis.call('ZADD', key.line_turns(line, band), turn, fairness)
  end
end

-- Of many jobs that one call places most stand in few lines: they are kept until all are known, and those
-- of a line join it together.
local function join_later(job, joining)
  local name = job.band .. '/' .. job.line
  if not joining[name] then
    joining[name] = {}
    table.insert(joining, joining[name])
  end
  table.insert(joining[name], job)
end

local function join_lines(joining)
  for _, jobs in ipairs(joining) do join_line(jobs) end
end

local function leave_line(job)
  redis.call('ZREM', key.waiting(job.line), job.ticket)
  local turn = first_turn(job.line, tonumber(job.band))
  if turn then
    redis.call('ZREMRANGEBYSCORE', key.line_turns(job.line, job.band), '-inf', turn)
    return
  end
  redis.call('DEL', key.line_turns(job.line, job.band))
  if redis.call('EXISTS', key.waiting(job.line)) == 0 then
    redis.call('HDEL', key.lines(), job.line)
    unlink_line(job.line)
  end
end

-- Leaves the line unserved: the turn goes back to whom it was given.
local function give_up_place(job)
  if redis.call('ZSCORE', key.line_turns(job.line, job.band), job.fairness) then
    redis.call('ZINCRBY', key.line_turns(job.line, job.band), -1, job.fairness)
  end
  leave_line(job)
end

-- Does the line stand rightly in this pool? If not, it is struck off, and put where it belongs.
local function stands_in(pool, line)
  if redis.call('HEXISTS', key.lines(), line) == 1 then
    local where, caps, required = parse_line(line)
    local pools = pools_of(where)
    for _, name in ipairs(pools) do
      if name == pool and not is_for(required, pools, caps) then return true end
    end
    redis.call('ZREM', key.pool_waiting(pool), line)
    link_line(line)
  else
    redis.call('ZREM', key.pool_waiting(pool), line)
  end
  return false
end

-- The line of the pool that was served longest ago of those that the node can serve, and its turn. A
-- line for which the node lacks a capability is passed over once: `pool_passed` has the turn up to
-- which all are of that kind, until the node registers anew.
local function line_in_pool(node_id, pool)
  local passed = redis.call('HGET', key.pool_passed(pool), node_id) or '-inf'
  local before = passed
  local line, turn
  while looks_left > 0 and not line do
    local found = redis.call('ZRANGEBYSCORE', key.pool_waiting(pool), '(' .. passed, '+inf',
      'WITHSCORES', 'LIMIT', 0, 1)
    if #found == 0 then break end
    if not stands_in(pool, found[1]) then
      looks_left = looks_left - 1
    else
      local _, caps = parse_line(found[1])
      if pool_in(node_id, {pool}, caps) then
        line, turn = found[1], tonumber(found[2])
      else
        looks_left = looks_left - 1
        passed = found[2]
      end
    end
  end
  if passed ~= before then redis.call('HSET', key.pool_passed(pool), node_id, passed) end
  return line, turn, pool
end

-- The line for this node alone that was served longest ago, its turn, and the pool to serve it in.
local function line_at_node(node_id)
  local after = '-inf'
  while looks_left > 0 do
    local found = redis.call('ZRANGEBYSCORE', key.node_waiting(node_id), '(' .. after, '+inf',
      'WITHSCORES', 'LIMIT', 0, 1)
    if #found == 0 then return nil end
    local where, caps = parse_line(found[1])
    local pools = pools_of(where)
    local pool = pool_in(node_id, not_paused(pools), caps)
    if pool then return found[1], tonumber(found[2]), pool end
    looks_left = looks_left - 1
    after = found[2]
    -- The node's pool does not serve its pair any more.
    if not pool_in(node_id, pools, caps) then link_line(found[1]) end
  end
end

-- The line whose turn it is at this node, and the pool to serve it in.
local function next_line(node_id)
  local best, best_turn, best_pool
  local function compare(line, turn, pool)
    if line and (not best or turn < best_turn) then best, best_turn, best_pool = line, turn, pool end
  end
  for pool, capability in lines(redis.call('HGET', key.node_info(node_id), 'offers')) do
    if capability == '' and not is_paused(pool) then compare(line_in_pool(node_id, pool)) end
  end
  compare(line_at_node(node_id))  -- last: where a line stood in a pool, it may stand here now
  return best, best_pool
end

-- Gives the slot to the first in line; one whose message is gone is struck off. Was the slot taken?
local function serve_line(line, node_id, pool)
  local ticket = redis.call('ZRANGE', key.waiting(line), 0, 0)[1]
  local job = read_job(string.match(ticket, ' (.*)$'))
  job.line, job.ticket = line, ticket
  local where, _, required = parse_line(line)
  local served = redis.call('INCR', key.turn())
  for _, name in ipairs(pools_of(where)) do
    redis.call('ZADD', key.pool_waiting(name), 'XX', served, line)
  end
  if required ~= '' then redis.call('ZADD', key.node_waiting(required), 'XX', served, line) end
  leave_line(job)
  if not is_parked(job) then
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
  while filled < free do
    if moves_left <= 0 then return filled, true end
    local line, pool = next_line(node_id)
    if not line then return filled, looks_left <= 0 end
    moves_left = moves_left - 1
    if serve_line(line, node_id, pool) then filled = filled + 1 end
  end
  return filled, false
end

-- Fills the free nodes of pools.
local function fill_pools(pools)
  for _, pool in ipairs(pools) do
    for _, node_id in ipairs(redis.call('ZRANGE', key.pool_free(pool), 0, MOST_LOOKS - 1)) do
      if looks_left <= 0 or moves_left <= 0 then return end
      looks_left = looks_left - 1
      fill_node(node_id)
    end
  end
end

-- The job waits for its time.
local function delay(job)
  redis.call('ZADD', key.delayed(), job.due_ts, job.id)
  redis.call('HSET', key.job(job.id), 'status', 'delayed')
end

-- The node for a job, its pool, and by what it was chosen; nil where none has a slot, and then `job.line` is
-- where it has to wait. `full` has the demands for which this call found none: while it frees no slot, one
-- who asks for the same need not look.
local function find_slot(job, full)
  local demand = job.where .. '/' .. job.caps
  local required = ''
  if not full[demand] or job.affinity == 'require' then
    local caps, session, pools = split(job.caps, '[^,]+'), read_session(job.session_id), pools_of(job.where)
    required = required_node(job, session, pools, caps)
    local node_id, pool, chosen_by = choose_node(job, session, pools, caps, required)
    if node_id then return node_id, pool, chosen_by end
    if required == '' then full[demand] = true end
  end
  job.line = line_of(job, required)
end

-- Gives a job whose message is parked to a node that has a slot. Was there one?
local function give_parked(job, full)
  local node_id, pool, chosen_by = find_slot(job, full)
  if not node_id then return false end
  give_slot(job, node_id, pool, chosen_by)
  move_message(job, node_id)
  return true
end

-- Places a job whose message is parked: at a node that has a slot, or in line, or among the delayed.
-- A slot that it held is freed. The line gets the slot of a requeued job first. Returns what became of it.
local function place_parked(job)
  if job.where == '' then  -- Redis has lost what it asks for; who reads its message can tell again
    local freed = free_slot(job)
    lose_job(job, 'what it asks for was lost')
    if freed then fill_node(freed) end
    return 'lost'
  end
  if tonumber(job.due_ts) > NOW then
    delay(job)
    keep_record(job)
    return 'delayed'
  end
  redis.call('ZREM', key.delayed(), job.id)
  local freed = free_slot(job)
  if freed and job.is_requeued then fill_node(freed) end
  local is_placed = give_parked(job, {})
  if not is_placed then
    join_line({job})
    keep_record(job)
  end
  if freed then fill_node(freed) end
  return is_placed and 'dispatched' or 'waiting'
end

-- Places delayed jobs whose time has come, the first of them if more find a slot than one call may move.
-- Returns how many.
local function place_due(job_ids)
  local full, joining, placed = {}, {}, 0
  for _, job_id in ipairs(job_ids) do
    if moves_left <= 0 then break end
    placed = placed + 1
    local job = read_job(job_id)
    if job.status == 'delayed' and not is_parked(job) then
      lose_job(job, 'its message is gone')
    elseif job.status == 'delayed' then
      if give_parked(job, full) then moves_left = moves_left - 1 else join_later(job, joining) end
    end
  end
  join_lines(joining)
  if placed > 0 then redis.call('ZREM', key.delayed(), unpack(job_ids, 1, placed)) end
  return placed
end

-- The message of a job that has ended was put back. That of one revoked or expired has yet to tell the
-- caller, at the next node that is heard; any other came twice.
local function settle_ended(job)
  local reason = redis.call('HGET', key.job(job.id), 'reason')
  if DISCARDED[reason] then
    redis.call('HSET', key.job(job.id), 'status', 'parked')
    redis.call('ZADD', key.expiring(), 0, job.id)
  else
    redis.call('DEL', parked_list(job))
  end
end

-- Does the message of a parked job wait for a node that reports its end to the caller? See settle_ended.
local function awaits_discard(job)
  return DISCARDED[redis.call('HGET', key.job(job.id), 'reason') or ''] == true
end

-- Hands the message of a job that will not run (revoked, expired) to a node, whose worker finds that
-- out by Celery's own rules and tells the caller. It takes no slot.
local function discard_job(job, node_id, reason)
  if not PARKED[job.status] or not is_parked(job) then return false end
  if job.status == 'waiting' then give_up_place(job) end
  redis.call('ZREM', key.delayed(), job.id)
  redis.call('HSET', key.job(job.id), 'node_id', node_id)
  end_job(job, 'failed', reason)
  move_message(job, node_id)
  return true
end
