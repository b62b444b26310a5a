-- include: node
-- A job's record, its slot and its message. A slot is the job's membership in the node's set of jobs, so taking or
-- freeing it twice changes nothing. While a job has no slot, its message is in the job's own list.

local ENDED = {finished = true, failed = true, lost = true}
local UNASSIGNED = {parked = true, waiting = true, delayed = true}
local DISCARDED = {revoked = true, expired = true}  -- reasons for which a job does not run at all

-- The fields that a script needs to place a job. A missing field is "". A missing job has the status "".
local FIELDS = {'status', 'node_id', 'task_id', 'session_id', 'src_lang', 'tgt_lang', 'where', 'caps',
  'preferred', 'affinity', 'fairness', 'band', 'suffix', 'due_ts', 'expires_ts', 'line', 'ticket',
  'rescues', 'pool', 'waiting_ts', 'claim', 'successor', 'places'}

local function read_job(job_id)
  local values = redis.call('HMGET', key.job(job_id), unpack(FIELDS))
  local job = {id = job_id}
  for i, field in ipairs(FIELDS) do job[field] = values[i] or '' end
  for _, field in ipairs({'band', 'due_ts', 'expires_ts'}) do  -- Redis has lost it, or it is unreadable
    if not string.match(job[field], '^%d+$') or #job[field] > 16 then job[field] = '0' end
  end
  return job
end

-- Records when the job expires. A heartbeat discards expired jobs that are at no node.
local function schedule_expiry(job)
  if job.expires_ts ~= '0' then redis.call('ZADD', key.expiring(), job.expires_ts, job.id) end
end

-- Is it the latest job of its task? Then the task's key, which names that job, stays as long as the job's record.
local function is_latest_of_task(job) return job.task_id ~= '' and (job.successor or '') == '' end

-- Records in a task's earlier job that the task has a later job.
local function record_successor(earlier, later)
  if redis.call('EXISTS', key.job(earlier)) == 1 then redis.call('HSET', key.job(earlier), 'successor', later) end
end

-- Removes the TTL of a job that was at a node and now waits.
local function persist_record(job)
  redis.call('PERSIST', key.job(job.id))
  if is_latest_of_task(job) then redis.call('PERSIST', key.task(job.task_id)) end
  schedule_expiry(job)
end

local function expire_record(job)
  redis.call('PEXPIRE', key.job(job.id), TTL.history)
  if is_latest_of_task(job) then redis.call('PEXPIRE', key.task(job.task_id), TTL.history) end
end

-- The job's own list, by kombu's name for a queue and a priority. The suffix is "" for the first priority step.
local function own_list(job) return key.job_queue(job.id) .. job.suffix end

local function has_own_message(job) return redis.call('EXISTS', own_list(job)) == 1 end

-- Bytes of messages that this call may still move. Lua copies each message: 1 MB takes 1 to 3 ms.
local bytes_left = 4000000

-- Moves the next message of a list to a node's queue. Returns whether there was a message.
local function move_next_message(list, node_id)
  local message = attempt(redis.call, 'LMOVE', list, key.node_queue(node_id), 'RIGHT', 'LEFT')
  if not message then return false end
  bytes_left = bytes_left - #message
  return true
end

-- Moves the job's message to a node's queue. That is one list for all priorities, since each of its jobs has a slot.
local function move_message(job, node_id) move_next_message(own_list(job), node_id) end

-- Records how the job ended. Counts it by its status, or as `counted_as`.
local function end_job(job, status, reason, counted_as)
  increment_counter(job.pool or '', counted_as or status)
  redis.call('HSET', key.job(job.id), 'status', status, 'reason', reason, 'ended_ts', NOW)
  if job.expires_ts ~= '0' and job.expires_ts ~= '' then redis.call('ZREM', key.expiring(), job.id) end
  expire_record(job)
end

-- Deletes a message that a node has taken, acknowledged or not.
local function forget_message(node_id, delivery_tag)
  redis.call('HDEL', key.node_unacked(node_id), delivery_tag)
  redis.call('ZREM', key.node_unacked_index(node_id), delivery_tag)
  redis.call('SREM', key.node_acked(node_id), delivery_tag)
end

-- Marks the job lost and queues a notification for its caller, unless a newer job of the same task is active (a retry
-- that was sent before the node died).
local function mark_job_lost(job, reason, counted_as)
  local latest = job.task_id ~= '' and redis.call('GET', key.task(job.task_id))
    or job.successor ~= '' and job.successor or job.id
  local needs_report = latest == job.id or redis.call('HGET', key.job(latest), 'status') == 'lost'
  end_job(job, 'lost', reason, counted_as)
  emit_event('job_lost', 'job', job.id, 'task', job.task_id, 'node', job.node_id, 'reason', reason)
  if needs_report and job.task_id ~= '' then
    redis.call('ZADD', key.lost(), NOW, job.id)
  elseif job.node_id ~= '' then
    forget_message(job.node_id, redis.call('HGET', key.job(job.id), 'tag') or '')
  end
end

-- Frees the job's slot, if it has one. Returns the node that has one more free slot now, or nil.
local function free_slot(job)
  if job.node_id == '' or redis.call('ZREM', key.node_jobs(job.node_id), job.id) == 0 then
    return nil
  end
  update_free_sets(job.node_id)
  return job.node_id
end

local function read_session(session_id)
  if session_id == '' then return {node_id = '', pool = ''} end
  local session = attempt(redis.call, 'HMGET', key.session(session_id), 'node_id', 'preferred_pool') or {}
  return {node_id = session[1] or '', pool = session[2] or ''}
end

-- The fields that say how a job uses its slot: it runs by a claim, or it is dispatched if there is none.
local function state_fields(delivery_tag, claim)
  if not claim then return 'status', 'dispatched' end
  return 'status', 'running', 'started_ts', NOW, 'tag', delivery_tag, 'claim', claim
end

-- Records in the job's session where the job is.
local function record_in_session(job, node_id, pool)
  local session = key.session(job.session_id)
  local home = redis.call('HGET', session, 'node_id')
  if home and home ~= node_id then
    increment_counter(pool, 'session_moves')
    redis.call('HSET', key.job(job.id), 'session_node', home)
  end
  redis.call('HSET', session, 'node_id', node_id, 'preferred_pool', pool)
  if job.src_lang ~= '' then redis.call('HSET', session, 'last_lang_pair', job.src_lang .. ':' .. job.tgt_lang) end
  redis.call('PEXPIRE', session, TTL.session)
end

-- Adds a field and its value to a list of them.
local function put(fields, field, value)
  local at = #fields
  fields[at + 1], fields[at + 2] = field, value
end

-- Gives a job a slot at a node. The caller counts this, and records the node in the job's session. `fields` are the
-- job's status and other fields of its record.
local function assign_slot(job, node, pool, chosen_by, fields)
  local added = redis.call('ZADD', key.node_jobs(node.id), NOW + TTL.lease, job.id)
  if node.taken then node.taken = node.taken + added end
  mark_chosen(node)
  redis.call('HSET', key.job(job.id), 'node_id', node.id, 'pool', pool, 'chosen_by', chosen_by,
    'decision', node.decision or '', 'dispatched_ts', NOW, unpack(fields))
  expire_record(job)
end

-- The same for a job that has a record and no slot. With a `claim`, the job runs by it. Then the claim is also the
-- delivery tag of its message.
local function assign_waiting(job, node, pool, chosen_by, claim)
  local fields = {state_fields(claim, claim)}
  if job.waiting_ts ~= '' then
    job.waited_ms = NOW - clamp(job.waiting_ts)
    count_assignment(pool, chosen_by, job.waited_ms)
    put(fields, 'waited_ms', job.waited_ms)
  else
    increment_counter(pool, chosen_by)
  end
  if job.node_id ~= '' and job.node_id ~= node.id then
    put(fields, 'from_node', job.node_id)
    emit_event('job_moved', 'job', job.id, 'task', job.task_id, 'from', job.node_id, 'node', node.id)
  end
  redis.call('HDEL', key.job(job.id), 'line', 'ticket', 'places', 'waiting_ts', 'tag', 'claim', 'lapsed_ts',
    'ended_ts', 'reason')
  if job.expires_ts ~= '0' then redis.call('ZREM', key.expiring(), job.id) end
  job.pool = pool
  assign_slot(job, node, pool, chosen_by, fields)
  if job.session_id ~= '' then attempt(record_in_session, job, node.id, pool) end
end

-- Renews the lease of a job that the node reports as held. If Redis has lost the job's record or its slot, restores them:
-- what the node runs is the truth. Returns false if the job is not this node's.
local function confirm_job(node_id, job_id)
  local job = read_job(job_id)
  if not redis.call('ZSCORE', key.node_jobs(node_id), job_id) and job.status ~= '' then
    if job.node_id ~= node_id or UNASSIGNED[job.status] then return false end
    if ENDED[job.status] and job.status ~= 'lost' then return true end  -- since the node sent the heartbeat
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
