-- include: node
-- A job's record, its slot and its message. A slot is the job's membership in the node's set of
-- jobs, so taking it twice or freeing it twice changes nothing. While a job is at no node, its
-- message lies in a list of its own: it is parked.

local ENDED = {finished = true, failed = true, lost = true}
local PARKED = {parked = true, waiting = true, delayed = true}
local DISCARDED = {revoked = true, expired = true}  -- reasons for which a job does not run at all

-- The fields that a script needs to place a job; a missing one is "", a missing job has no status.
local FIELDS = {'status', 'node_id', 'task_id', 'session_id', 'src_lang', 'tgt_lang', 'where', 'caps',
  'preferred', 'affinity', 'fairness', 'band', 'suffix', 'due_ts', 'expires_ts', 'line', 'ticket',
  'rescues', 'pool', 'waiting_ts', 'claim', 'successor', 'places'}

local function read_job(job_id)
  local values = redis.call('HMGET', key.job(job_id), unpack(FIELDS))
  local job = {id = job_id}
  for i, field in ipairs(FIELDS) do job[field] = values[i] or '' end
  for _, field in ipairs({'band', 'due_ts', 'expires_ts'}) do  -- Redis had lost it, or it is unreadable
    if not string.match(job[field], '^%d+$') or #job[field] > 16 then job[field] = '0' end
  end
  return job
end

-- The job is at no node: that it expires is for a heartbeat to find.
local function watch_expiry(job)
  if job.expires_ts ~= '0' then redis.call('ZADD', key.expiring(), job.expires_ts, job.id) end
end

-- Is it the latest job of its task? Then the task's key, which names that job, stays as long as its record does.
local function is_latest(job) return job.task_id ~= '' and (job.successor or '') == '' end

-- Notes in the record of a task's earlier job that the task has a later one.
local function note_successor(earlier, later)
  if redis.call('EXISTS', key.job(earlier)) == 1 then redis.call('HSET', key.job(earlier), 'successor', later) end
end

-- The same of a job that was at a node: its record stays.
local function keep_record(job)
  redis.call('PERSIST', key.job(job.id))
  if is_latest(job) then redis.call('PERSIST', key.task(job.task_id)) end
  watch_expiry(job)
end

local function expire_record(job)
  redis.call('PEXPIRE', key.job(job.id), TTL.history)
  if is_latest(job) then redis.call('PEXPIRE', key.task(job.task_id), TTL.history) end
end

-- kombu's list of a queue and a priority: the suffix is "" for the first of its priority steps.
local function parked_list(job) return key.job_queue(job.id) .. job.suffix end

local function is_parked(job) return redis.call('EXISTS', parked_list(job)) == 1 end

-- Bytes of messages that one call may still move: Lua copies each message, and 1 MB takes it 1 to 3 ms.
local bytes_left = 4000000

-- Moves the next message of a list to a node's queue. Was there one?
local function move_next(list, node_id)
  local message = attempt(redis.call, 'LMOVE', list, key.node_queue(node_id), 'RIGHT', 'LEFT')
  if not message then return false end
  bytes_left = bytes_left - #message
  return true
end

-- A node's queue is one list: all that is in it has its slot, and priority says nothing there.
local function move_message(job, node_id) move_next(parked_list(job), node_id) end

-- It is counted by its status, or as what is given.
local function end_job(job, status, reason, counted_as)
  count(job.pool or '', counted_as or status)
  redis.call('HSET', key.job(job.id), 'status', status, 'reason', reason, 'ended_ts', NOW)
  if job.expires_ts ~= '0' then redis.call('ZREM', key.expiring(), job.id) end
  expire_record(job)
end

-- Forgets a message that a node had taken, and had acknowledged or not.
local function forget_message(node_id, tag)
  redis.call('HDEL', key.node_unacked(node_id), tag)
  redis.call('ZREM', key.node_unacked_index(node_id), tag)
  redis.call('SREM', key.node_acked(node_id), tag)
end

-- Marks the job lost and queues a notification for its caller, unless a newer job of the same task is active (a retry
-- that was sent before the node died).
local function lose_job(job, reason, counted_as)
  local latest = job.task_id ~= '' and redis.call('GET', key.task(job.task_id))
    or job.successor ~= '' and job.successor or job.id
  local is_told = latest == job.id or redis.call('HGET', key.job(latest), 'status') == 'lost'
  end_job(job, 'lost', reason, counted_as)
  tell('job_lost', 'job', job.id, 'task', job.task_id, 'node', job.node_id, 'reason', reason)
  if is_told and job.task_id ~= '' then
    redis.call('ZADD', key.lost(), NOW, job.id)
  elseif job.node_id ~= '' then
    forget_message(job.node_id, redis.call('HGET', key.job(job.id), 'tag') or '')
  end
end

-- Frees the job's slot, if it has one. Returns the node that has one more now, or nil.
local function free_slot(job)
  if job.node_id == '' or redis.call('ZREM', key.node_jobs(job.node_id), job.id) == 0 then
    return nil
  end
  place_node(job.node_id)
  return job.node_id
end

local function read_session(session_id)
  if session_id == '' then return {node_id = '', pool = ''} end
  local known = attempt(redis.call, 'HMGET', key.session(session_id), 'node_id', 'preferred_pool') or {}
  return {node_id = known[1] or '', pool = known[2] or ''}
end

-- Gives a job its slot at a node, and its session with it.
local function give_slot(job, node_id, pool, chosen_by)
  count(pool, chosen_by)
  local fields = {'status', 'dispatched', 'node_id', node_id, 'pool', pool, 'chosen_by', chosen_by,
    'decision', job.decision or '', 'dispatched_ts', NOW}
  local function also(field, value)
    fields[#fields + 1] = field
    fields[#fields + 1] = value
  end
  if (job.waiting_ts or '') ~= '' then
    local waited = NOW - clamp(job.waiting_ts)
    count_wait(pool, waited)
    also('waited_ms', waited)
  end
  if (job.node_id or '') ~= '' and job.node_id ~= node_id then
    also('from_node', job.node_id)
    tell('job_moved', 'job', job.id, 'task', job.task_id, 'from', job.node_id, 'node', node_id)
  end
  redis.call('ZADD', key.node_jobs(node_id), NOW + TTL.lease, job.id)
  place_chosen(node_id)
  redis.call('HSET', key.job(job.id), unpack(fields))
  if job.status then  -- it was somewhere before
    redis.call('HDEL', key.job(job.id), 'line', 'ticket', 'places', 'waiting_ts', 'tag', 'claim', 'lapsed_ts',
      'ended_ts', 'reason')
  end
  if job.expires_ts ~= '0' then redis.call('ZREM', key.expiring(), job.id) end
  expire_record(job)
  if job.session_id == '' then return end
  attempt(function()
    local home = redis.call('HGET', key.session(job.session_id), 'node_id')
    if home and home ~= node_id then
      count(pool, 'session_moves')
      redis.call('HSET', key.job(job.id), 'session_node', home)
    end
    redis.call('HSET', key.session(job.session_id), 'node_id', node_id, 'preferred_pool', pool)
    if job.src_lang ~= '' then
      redis.call('HSET', key.session(job.session_id),
        'last_lang_pair', job.src_lang .. ':' .. job.tgt_lang)
    end
    redis.call('PEXPIRE', key.session(job.session_id), TTL.session)
  end)
end

-- A node says that it holds the job: renews the lease. A job of which Redis has lost the record, or
-- only the slot, is taken up again: what the node runs is the truth. False: the job is not this
-- node's.
local function confirm_job(node_id, job_id)
  local job = read_job(job_id)
  if not redis.call('ZSCORE', key.node_jobs(node_id), job_id) and job.status ~= '' then
    if job.node_id ~= node_id or PARKED[job.status] then return false end
    if ENDED[job.status] and job.status ~= 'lost' then return true end  -- since the node looked
  end
  redis.call('ZADD', key.node_jobs(node_id), NOW + TTL.lease, job_id)
  if job.status ~= 'running' then
    redis.call('HSET', key.job(job_id), 'node_id', node_id, 'status', 'running')
    redis.call('HSETNX', key.job(job_id), 'started_ts', NOW)
    redis.call('HDEL', key.job(job_id), 'ended_ts', 'reason')
    redis.call('ZREM', key.lost(), job_id)
  end
  expire_record(job)
  return true
end
