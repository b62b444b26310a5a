-- include: node_choice
-- include: assignment
-- Where a job goes: to a node with a free slot, into its line, or to the delayed jobs.

local function delay_job(job)
  redis.call('ZADD', key.delayed(), job.due_ts, job.id)
  redis.call('HSET', key.job(job.id), 'status', 'delayed')
end

-- The job leaves its line, or the delayed jobs.
local function stop_waiting(job)
  if job.status == 'waiting' then abandon_place(job) end
  redis.call('ZREM', key.delayed(), job.id)
end

-- The node for a job, its pool, and the rule that chose it. If no node has a free slot for the job, returns nil, and
-- `job.line` is the line in which it has to wait. While jobs wait in that line, a free node takes waiting jobs first,
-- so a new job takes no slot that an earlier job of its line could have. `full_lines` has the lines without a free
-- slot. The call frees no slot, so it does not search for them again.
local function find_slot(job, full_lines)
  local line, required = line_name(job, ''), ''
  if not full_lines[line] or job.affinity == 'require' then
    local capabilities, session = split(job.caps, '[^,]+'), read_session(job.session_id)
    local pools = pools_of(job.where)
    required = required_node(job, session, pools, capabilities)
    line = line_name(job, required)
    local is_new = job.node_id == '' or job.is_requeued
    if bytes_left <= 0 then full_lines[line] = true end  -- the next heartbeat of a free node moves it
    while not full_lines[line] do
      local node, pool, chosen_by = choose_node(job, session, pools, capabilities, required)
      if node and not (is_new and redis.call('EXISTS', key.waiting(line)) == 1) then return node, pool, chosen_by end
      full_lines[line] = not node or assign_waiting_jobs(node.id) == 0
    end
  end
  job.line = line
end

-- Assigns a job with a message in its own list to a node with a free slot. Returns whether there was one.
local function try_assign(job, full_lines)
  local node, pool, chosen_by = find_slot(job, full_lines)
  if not node then return false end
  assign_waiting(job, node, pool, chosen_by)
  move_message(job, node.id)
  return true
end

-- Places a job with a message in its own list: at a node with a free slot, in its line, or among the delayed jobs.
-- Frees the slot that it held. For a requeued job, the line gets that slot first. Returns "dispatched", "waiting",
-- "delayed" or "lost".
local function place_unassigned(job)
  if job.where == '' then  -- Redis has lost the demand, and the job's message still has it
    local freed = free_slot(job)
    mark_job_lost(job, 'its demand was lost')
    if freed then assign_waiting_jobs(freed) end
    return 'lost'
  end
  if tonumber(job.due_ts) > NOW then
    delay_job(job)
    persist_record(job)
    return 'delayed'
  end
  redis.call('ZREM', key.delayed(), job.id)
  local freed = free_slot(job)
  if freed and job.is_requeued then assign_waiting_jobs(freed) end
  local is_placed = try_assign(job, {})
  if not is_placed then
    local joining = {}
    join_later(job, joining)
    join_lines(joining)
    persist_record(job)
  end
  if freed then assign_waiting_jobs(freed) end
  return is_placed and 'dispatched' or 'waiting'
end

-- Places delayed jobs that are due, until this call may move no more. Returns how many.
local function place_due_jobs(job_ids)
  local full_lines, joining, placed = {}, {}, 0
  local function place_next(job_id)
    local job = read_job(job_id)
    if job.status == 'delayed' and not has_own_message(job) then
      mark_job_lost(job, 'its message is gone')
    elseif job.status == 'delayed' then
      if try_assign(job, full_lines) then moves_left = moves_left - 1 else join_later(job, joining) end
    end
  end
  for _, job_id in ipairs(job_ids) do
    if not may_move() then break end
    placed = placed + 1
    attempt(place_next, job_id)
  end
  -- As join_lines, but a fault of one line does not stop the others: no caller gets an error here.
  write_clocks()
  for _, jobs in ipairs(joining) do attempt(join_line, jobs) end
  if placed > 0 then redis.call('ZREM', key.delayed(), unpack(job_ids, 1, placed)) end
  return placed
end

-- Keeps the message of a job that will not run, until a heartbeat finds it and hands it to a node.
local function await_discard(job, reason)
  redis.call('HSET', key.job(job.id), 'status', 'parked', 'reason', reason)
  redis.call('ZADD', key.expiring(), 0, job.id)
end

-- The message of a job that has ended is in the job's own list again. If the job was revoked or has expired, the next
-- node that sends a heartbeat gets the message and reports the end to the caller. Any other message is a second copy.
local function finalize_ended(job)
  local reason = redis.call('HGET', key.job(job.id), 'reason')
  if DISCARDED[reason] then
    await_discard(job, reason)
  else
    redis.call('DEL', own_list(job))
  end
end

-- Does the job's message wait for a node that reports the job's end to the caller? See await_discard.
local function awaits_discard(job)
  return DISCARDED[redis.call('HGET', key.job(job.id), 'reason') or ''] == true
end

-- Moves the message of a job that will not run (revoked, expired) to a node. The node's worker finds that out by
-- Celery's own rules and reports it to the caller. The job takes no slot. Returns whether the message was there.
local function discard_job(job, node_id, reason)
  if not UNASSIGNED[job.status] or not has_own_message(job) then return false end
  stop_waiting(job)
  redis.call('HSET', key.job(job.id), 'node_id', node_id)
  end_job(job, 'failed', reason)
  move_message(job, node_id)
  return true
end
