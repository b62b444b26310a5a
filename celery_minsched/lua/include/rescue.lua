-- include: place
-- include: claim
-- The jobs of a node that is gone. Their messages are in the node's queue, among its unacknowledged messages, or
-- nowhere. Only a process that can read messages can move them to the jobs' own lists (node_agent/rescuer.py). Scripts
-- do the rest. Each step can be repeated at any time.

local RESCUE_CLAIM = 10000           -- ms for which a rescue belongs to the node that claimed it
local LONGEST_REPORT_PAUSE = 600000  -- ms between two attempts to report a lost job to its caller
local RESCUE_PAUSE = 1000            -- ms until the next look at a node's remaining jobs
local MOST_RESCUED = 100             -- jobs in one call
local MOST_TAGS = 100                -- unacknowledged messages to read in one call
local MOST_NODES = 10                -- nodes with a due rescue, in one call
local rescues_left = MOST_RESCUED

-- The members of a sorted set that are due, at most `most`. If a member is due later than `longest` from now, the clock
-- was set back, and the member is due.
local function due_members(set, longest, most)
  local members = redis.call('ZRANGEBYSCORE', set, '-inf', NOW, 'LIMIT', 0, most)
  if #members > 0 then return members end
  return redis.call('ZRANGEBYSCORE', set, '(' .. NOW + longest, '+inf', 'LIMIT', 0, most)
end

local function is_any_due(set, longest)
  local all = redis.call('ZCARD', set)
  return all > 0 and all > redis.call('ZCOUNT', set, '(' .. NOW, NOW + longest)
end

local function enqueue_rescue(node_id)
  redis.call('ZADD', key.rescues(), 'NX', NOW, node_id)
end

-- Is there no record of the node, or was it found silent?
local function is_absent(node_id)
  if redis.call('EXISTS', key.node_info(node_id)) == 0 then return true end
  return tonumber(redis.call('ZSCORE', key.nodes(), node_id) or 0) < 0
end

-- Are there no messages in the node's queue, and none that the node is taking from it now?
local function is_queue_empty(node_id, priority_suffixes)
  if redis.call('EXISTS', key.node_taken(node_id)) == 1 then return false end
  for _, priority_suffix in ipairs(priority_suffixes) do
    if redis.call('EXISTS', key.node_queue(node_id) .. priority_suffix) == 1 then return false end
  end
  return true
end

-- Is there a message that may run again, in the node's queue or among its unacknowledged messages? If there are many
-- unacknowledged messages, the answer is yes: a process that reads messages has to look.
local function has_messages(node_id, priority_suffixes)
  if not is_queue_empty(node_id, priority_suffixes) then return true end
  if redis.call('HLEN', key.node_unacked(node_id)) > MOST_TAGS then return true end
  for _, delivery_tag in ipairs(redis.call('HKEYS', key.node_unacked(node_id))) do
    if redis.call('SISMEMBER', key.node_acked(node_id), delivery_tag) == 0 then return true end
  end
  return false
end

-- The jobs that may have killed the node, as a set.
local function read_suspects(node_id)
  local recorded = redis.call('HGET', key.node_info(node_id), 'suspects') or ''
  local suspects = {all = recorded == '*'}
  for job_id in string.gmatch(recorded, '[^\n]+') do suspects[job_id] = true end
  return suspects
end

-- Places a job whose message was moved to the job's own list, unless nodes have died under it too often. Frees its
-- slot, but does not update the node's free sets. Returns whether the job was placed.
local function place_rescued_job(job, suspects)
  local is_suspect = suspects.all or suspects[job.id]
  local rescues = number(job.rescues)
  if is_suspect and job.status == 'running' then rescues = increment_field(key.job(job.id), 'rescues', 1) end
  redis.call('ZREM', key.node_jobs(job.node_id), job.id)
  if rescues < TTL.rescues then return place_unassigned(job) ~= 'lost' end
  end_job(job, 'failed', 'its node died under it ' .. rescues .. ' times')
  redis.call('ZADD', key.lost(), NOW, job.id)
  return false
end

-- The jobs of the node whose leases end first, in the order of their dispatch: many have the same lease.
local function jobs_by_age(node_id, before)
  local scored = redis.call('ZRANGEBYSCORE', key.node_jobs(node_id), '-inf', before,
    'WITHSCORES', 'LIMIT', 0, rescues_left)
  rescues_left = rescues_left - #scored / 2
  local jobs = {}
  for i = 1, #scored, 2 do
    local sequence = number(string.match(scored[i], '%d+$'))
    jobs[#jobs + 1] = {id = scored[i], lease = scored[i + 1], number = sequence}
  end
  table.sort(jobs, function(one, other) return one.number < other.number end)
  return jobs
end

-- Puts the message of a job back into the job's own list, if the node took it in the answer to a completion and that
-- answer never reached it. Returns whether it did.
local function put_back_message(job)
  local message = message_of_claim(job.node_id, job.id, job.claim)
  if not message or redis.call('SISMEMBER', key.node_acked(job.node_id), job.claim) == 1 then return false end
  forget_message(job.node_id, job.claim)
  redis.call('RPUSH', own_list(job), message)
  return true
end

-- Decides about a node's jobs with a lease that ends before `before`. No message is left at the node.
-- - A job is placed if its message is in its own list, or if its message never reached the node.
-- - A job that was dispatched and whose lease is still valid keeps its slot: its message may be on the way.
-- - Any other job is lost.
-- Returns how many were placed, and lost.
local function finalize_jobs(node_id, before, suspects)
  local placed, lost = 0, 0
  local jobs = jobs_by_age(node_id, before)
  for _, each in ipairs(jobs) do
    local job, lease = attempt(read_job, each.id) or {}, clamp(each.lease, TTL.lease)
    if job.node_id ~= node_id or ENDED[job.status] then
      redis.call('ZREM', key.node_jobs(node_id), each.id)
    elseif has_own_message(job) or put_back_message(job) then
      if place_rescued_job(job, suspects) then placed = placed + 1 else lost = lost + 1 end
    elseif job.status == 'dispatched' and lease > NOW then
      redis.call('ZADD', key.node_jobs(node_id), lease, job.id)
    else
      redis.call('ZREM', key.node_jobs(node_id), job.id)
      mark_job_lost(job, job.status == 'dispatched' and 'its message never reached its node'
        or 'its node was lost while it ran')
      lost = lost + 1
    end
  end
  if #jobs > 0 then update_free_sets(node_id) end
  return placed, lost
end

-- Frees the slots of a live node whose leases have ended: the node does not report that it holds these jobs. While
-- there are messages in its queue, the jobs may have theirs there, so this waits for a later call. When a message has
-- just left the queue, the node may not have reported its job yet. So the job keeps its slot for node_ttl more.
local function expire_leases(node_id, priority_suffixes)
  local expired = redis.call('ZRANGEBYSCORE', key.node_jobs(node_id), '-inf', NOW, 'LIMIT', 0, MOST_RESCUED)
  if #expired == 0 or not is_queue_empty(node_id, priority_suffixes) then return end
  for _, job_id in ipairs(expired) do
    if redis.call('HGET', key.job(job_id), 'status') == 'dispatched'
        and redis.call('HSETNX', key.job(job_id), 'lapsed_ts', NOW) == 1 then
      redis.call('ZADD', key.node_jobs(node_id), NOW + TTL.node, job_id)
    end
  end
  finalize_jobs(node_id, NOW, {})  -- without suspects: the node has not died
end

-- Decides about jobs of a node that is gone and has no messages left. If this call reaches its limit, the rest is due
-- at once. Returns how many jobs were placed, and lost.
local function rescue_node(node_id)
  local placed, lost = finalize_jobs(node_id, '+inf', read_suspects(node_id))
  if redis.call('EXISTS', key.node_jobs(node_id)) == 0 then
    redis.call('ZREM', key.rescues(), node_id)
    if has_died(node_id) then
      emit_event('node_rescued', 'node', node_id)
      increment_counter('', 'rescues')
    end
  else
    redis.call('ZADD', key.rescues(), rescues_left > 0 and NOW + RESCUE_PAUSE or NOW, node_id)
  end
  return placed, lost
end

-- The node has left in good order. If it has left messages behind, a process that reads messages rescues it.
local function hand_over_to_rescue(node_id, priority_suffixes)
  update_free_sets(node_id)  -- first: the node gets none of its own jobs back
  enqueue_rescue(node_id)
  if not has_messages(node_id, priority_suffixes) then rescue_node(node_id) end
end

-- Is the node gone? A stuck or stopping node takes no jobs, but is not gone.
local function is_gone(node_id)
  local node = redis.call('HMGET', key.node_info(node_id), 'online', 'state')
  return (node[1] ~= 'true' and (node[2] or '') == '') or not attempt(read_live_node, node_id)
end

-- Continues the rescue of one node. Returns whether it made progress.
local function continue_rescue(node_id, priority_suffixes)
  if not is_gone(node_id) then
    redis.call('ZREM', key.rescues(), node_id)
  elseif not has_messages(node_id, priority_suffixes) then
    rescue_node(node_id)
    return true
  end
  return false
end

-- Continues the rescues that are due. A rescue that needs a process that reads messages stays due. Returns whether more
-- may be left, if this call has made progress.
local function continue_rescues(priority_suffixes)
  local nodes, progress = due_members(key.rescues(), RESCUE_CLAIM, MOST_NODES), false
  for _, node_id in ipairs(nodes) do
    if rescues_left <= 0 then return true end
    progress = attempt(continue_rescue, node_id, priority_suffixes) or progress
  end
  return progress and (#nodes == MOST_NODES or rescues_left <= 0)
end

-- Is there work for a process that reads messages?
local function is_rescue_due()
  return is_any_due(key.rescues(), RESCUE_CLAIM) or is_any_due(key.lost(), LONGEST_REPORT_PAUSE)
end
