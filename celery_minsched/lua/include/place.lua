-- include: fill
-- Where a job goes: to a node that has a slot, in line, or among the delayed.

-- The job waits for its time.
local function delay(job)
  redis.call('ZADD', key.delayed(), job.due_ts, job.id)
  redis.call('HSET', key.job(job.id), 'status', 'delayed')
end

-- The node for a job, its pool, and by what it was chosen. If no node has a slot for it, returns nil, and `job.line` is
-- the line in which it has to wait. While jobs wait in that line, the node is filled from the lines first: a new job
-- takes no slot that an earlier job of its line could have. `full` has the lines for which this call found no slot.
-- The call frees no slot, so it does not look again.
local function find_slot(job, full)
  local line, required = line_of(job, ''), ''
  if not full[line] or job.affinity == 'require' then
    local caps, session, pools = split(job.caps, '[^,]+'), read_session(job.session_id), pools_of(job.where)
    required = required_node(job, session, pools, caps)
    line = line_of(job, required)
    local is_new = job.node_id == '' or job.is_requeued
    if bytes_left <= 0 then full[line] = true end  -- the next heartbeat of a free node moves it
    while not full[line] do
      local node_id, pool, chosen_by = choose_node(job, session, pools, caps, required)
      if node_id and not (is_new and redis.call('EXISTS', key.waiting(line)) == 1) then
        return node_id, pool, chosen_by
      end
      full[line] = not node_id or fill_node(node_id) == 0
    end
  end
  job.line = line
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
    local joining = {}
    join_later(job, joining)
    join_lines(joining)
    keep_record(job)
  end
  if freed then fill_node(freed) end
  return is_placed and 'dispatched' or 'waiting'
end

-- Places delayed jobs whose time has come, the first of them if more find a slot than one call may move.
-- Returns how many.
local function place_due(job_ids)
  local full, joining, placed = {}, {}, 0
  local function place_next(job_id)
    local job = read_job(job_id)
    if job.status == 'delayed' and not is_parked(job) then
      lose_job(job, 'its message is gone')
    elseif job.status == 'delayed' then
      if give_parked(job, full) then moves_left = moves_left - 1 else join_later(job, joining) end
    end
  end
  for _, job_id in ipairs(job_ids) do
    if not may_move() then break end
    placed = placed + 1
    attempt(place_next, job_id)
  end
  write_clocks()
  for _, jobs in ipairs(joining) do attempt(join_line, jobs) end
  if placed > 0 then redis.call('ZREM', key.delayed(), unpack(job_ids, 1, placed)) end
  return placed
end

-- The message of a job that has ended was put back. If the job was revoked or has expired, the next node that is heard
-- gets the message and tells the caller. Any other message came twice.
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
