-- include: place
-- What becomes of the jobs of a node that is gone. Their messages lie in the node's queue, among its
-- unacknowledged messages, or nowhere. Moving them to the jobs' own lists takes a reader of messages
-- (node_agent/rescue.py); all else is done here, and can be done again at any time.

local RESCUE_CLAIM = 10000  -- ms for which a rescue belongs to the node that claimed it
local LONGEST_REPORT_PAUSE = 600000  -- ms between two attempts to report a lost job to its caller
local RESCUE_PAUSE = 1000   -- ms between two looks at what is left
local MOST_RESCUED = 100    -- jobs in one call
local MOST_TAGS = 100       -- unacknowledged messages that are looked at in one call
local MOST_NODES = 10       -- nodes whose rescues are due, in one call
local rescues_left = MOST_RESCUED

-- The members of a sorted set that are due, so many at most. A member that is due later than a claim lasts is
-- due now: the server's clock was set back since.
local function due_of(set, longest, most)
  local found = redis.call('ZRANGEBYSCORE', set, '-inf', NOW, 'LIMIT', 0, most)
  if #found > 0 then return found end
  return redis.call('ZRANGEBYSCORE', set, '(' .. NOW + longest, '+inf', 'LIMIT', 0, most)
end

local function is_one_due(set, longest)
  local all = redis.call('ZCARD', set)
  return all > 0 and all > redis.call('ZCOUNT', set, '(' .. NOW, NOW + longest)
end

local function give_up_node(node_id)
  redis.call('ZADD', key.rescues(), 'NX', NOW, node_id)
end

-- Has the node no record, or was it found to be silent?
local function is_absent(node_id)
  if redis.call('EXISTS', key.node_info(node_id)) == 0 then return true end
  return tonumber(redis.call('ZSCORE', key.nodes(), node_id) or 0) < 0
end

-- Also of the one message that the node is taking just now.
local function is_queue_empty(node_id, suffixes)
  if redis.call('EXISTS', key.node_taken(node_id)) == 1 then return false end
  for _, suffix in ipairs(suffixes) do
    if redis.call('EXISTS', key.node_queue(node_id) .. suffix) == 1 then return false end
  end
  return true
end

-- Does a message that may run again lie in the node's queue, or among its unacknowledged messages? If there are many
-- of these, the answer is yes: a reader of messages has to look.
local function has_messages(node_id, suffixes)
  if not is_queue_empty(node_id, suffixes) then return true end
  if redis.call('HLEN', key.node_unacked(node_id)) > MOST_TAGS then return true end
  for _, tag in ipairs(redis.call('HKEYS', key.node_unacked(node_id))) do
    if redis.call('SISMEMBER', key.node_acked(node_id), tag) == 0 then return true end
  end
  return false
end

-- The jobs that may have killed the node, as a set.
local function read_suspects(node_id)
  local noted = redis.call('HGET', key.node_info(node_id), 'suspects') or ''
  local suspects = {all = noted == '*'}
  for job_id in string.gmatch(noted, '[^\n]+') do suspects[job_id] = true end
  return suspects
end

-- Places a job whose message was found, unless nodes died under it too often. Its slot at the node is freed, and
-- the node is not placed in load order again. Was the job placed?
local function place_anew(job, suspects)
  local is_suspect = suspects.all or suspects[job.id]
  local rescues = number(job.rescues)
  if is_suspect and job.status == 'running' then rescues = add(key.job(job.id), 'rescues', 1) end
  redis.call('ZREM', key.node_jobs(job.node_id), job.id)
  if rescues < MAX_RESCUES then return place_parked(job) ~= 'lost' end
  end_job(job, 'failed', 'its node died under it ' .. rescues .. ' times')
  redis.call('ZADD', key.lost(), NOW, job.id)
  return false
end

-- Jobs of the node whose leases end first, in the order in which they were sent: many have the same lease.
local function jobs_by_age(node_id, before)
  local found = redis.call('ZRANGEBYSCORE', key.node_jobs(node_id), '-inf', before,
    'WITHSCORES', 'LIMIT', 0, rescues_left)
  rescues_left = rescues_left - #found / 2
  local jobs = {}
  for i = 1, #found, 2 do
    local sequence = number(string.match(found[i], '%d+$'))
    jobs[#jobs + 1] = {id = found[i], lease = found[i + 1], number = sequence}
  end
  table.sort(jobs, function(one, other) return one.number < other.number end)
  return jobs
end

-- Jobs of the node whose lease ran out, or all of one that is gone, once no message is left at it:
-- one whose message is parked is placed; one that was dispatched just now may yet be published; the
-- others ran, or were handed over and never noted, and are lost. Returns how many are placed, and lost.
local function settle_jobs(node_id, before, suspects)
  local placed, lost = 0, 0
  local jobs = jobs_by_age(node_id, before)
  for _, each in ipairs(jobs) do
    local job, lease = attempt(read_job, each.id) or {}, clamp(each.lease, TTL.lease)
    if job.node_id ~= node_id or ENDED[job.status] then
      redis.call('ZREM', key.node_jobs(node_id), each.id)
    elseif is_parked(job) then
      if place_anew(job, suspects) then placed = placed + 1 else lost = lost + 1 end
    elseif job.status == 'dispatched' and lease > NOW then
      redis.call('ZADD', key.node_jobs(node_id), lease, job.id)
    else
      redis.call('ZREM', key.node_jobs(node_id), job.id)
      lose_job(job, job.status == 'dispatched' and 'its message never reached its node'
        or 'its node was lost while it ran')
      lost = lost + 1
    end
  end
  if #jobs > 0 then place_node(node_id) end
  return placed, lost
end

-- Frees the slots that a live node does not say that it holds. While messages lie in its queue,
-- theirs may be among them, and they wait for the next call. A message that has just left it, the node
-- may not have spoken of yet: it has as long for that as it may be silent.
local function lapse_jobs(node_id, suffixes)
  local lapsed = redis.call('ZRANGEBYSCORE', key.node_jobs(node_id), '-inf', NOW, 'LIMIT', 0, MOST_RESCUED)
  if #lapsed == 0 or not is_queue_empty(node_id, suffixes) then return end
  for _, job_id in ipairs(lapsed) do
    if redis.call('HGET', key.job(job_id), 'status') == 'dispatched'
        and redis.call('HSETNX', key.job(job_id), 'lapsed_ts', NOW) == 1 then
      redis.call('ZADD', key.node_jobs(node_id), NOW + TTL.node, job_id)
    end
  end
  settle_jobs(node_id, NOW, {})  -- a lease that ended is no death
end

-- Settles jobs of a node that is gone, once its messages were moved. If this call did as much as one may, the
-- rest is due at once. Returns how many jobs are placed, and lost.
local function rescue_node(node_id)
  local placed, lost = settle_jobs(node_id, '+inf', read_suspects(node_id))
  if redis.call('EXISTS', key.node_jobs(node_id)) == 0 then
    redis.call('ZREM', key.rescues(), node_id)
    if has_died(node_id) then
      tell('node_rescued', 'node', node_id)
      count('', 'rescues')
    end
  else
    redis.call('ZADD', key.rescues(), rescues_left > 0 and NOW + RESCUE_PAUSE or NOW, node_id)
  end
  return placed, lost
end

-- The node has left in good order. Where it has left messages behind, a reader of messages is needed.
local function leave_to_rescue(node_id, suffixes)
  place_node(node_id)  -- it takes no jobs: its own must not come to it again
  give_up_node(node_id)
  if not has_messages(node_id, suffixes) then rescue_node(node_id) end
end

-- A node that is stuck or stopping takes no jobs, and is not gone.
local function is_gone(node_id)
  local node = redis.call('HMGET', key.node_info(node_id), 'online', 'state')
  return (node[1] ~= 'true' and (node[2] or '') == '') or not is_alive(node_id)
end

-- Goes on with one of them. Returns whether it made progress.
local function go_on_with(node_id, suffixes)
  if not is_gone(node_id) then
    redis.call('ZREM', key.rescues(), node_id)
  elseif not has_messages(node_id, suffixes) then
    rescue_node(node_id)
    return true
  end
  return false
end

-- Goes on with the rescues that are due. Those that need a reader of messages stay due. Returns whether there may
-- be more, if this call has made progress.
local function rescue_due(suffixes)
  local due_now, progress = due_of(key.rescues(), RESCUE_CLAIM, MOST_NODES), false
  for _, node_id in ipairs(due_now) do
    if rescues_left <= 0 then return true end
    progress = attempt(go_on_with, node_id, suffixes) or progress
  end
  return progress and (#due_now == MOST_NODES or rescues_left <= 0)
end

-- Is there something that a reader of messages should do?
local function is_rescue_due()
  return is_one_due(key.rescues(), RESCUE_CLAIM) or is_one_due(key.lost(), LONGEST_REPORT_PAUSE)
end
