-- include: maintenance_due
-- include: discard
-- include: reindex
-- Maintenance that no event triggers. Each heartbeat does a bounded amount of each kind, if include/maintenance_due.lua
-- finds that some is due. A new kind of work needs a check there too.

local MOST_SWEPT = 50      -- nodes
local indexes_left = 1000  -- indexes of the nodes that this call marks dead or forgets
local claims_left = 1000   -- jobs of the nodes that this call marks dead, see record_suspects
local MOST_DUE = 150       -- delayed jobs
local MOST_EXPIRED = 60
local QUEUE_PAUSE = 50     -- ms until a node with a full queue gets expired jobs again

-- The clock was set back: replaces times that lie too far in the future. Each node's heartbeat does so for some nodes
-- and rescues, and for its own jobs.
local function clamp_scores(set, ahead, on_change)
  local limit = NOW + ahead
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', set, '(' .. limit, '+inf', 'LIMIT', 0, MOST_SWEPT)) do
    redis.call('ZADD', set, limit, member)
    if on_change then on_change(member) end
  end
end

local function clamp_stored_times(node_id)
  clamp_scores(key.nodes(), 0, function(other)
    redis.call('HSET', key.node_info(other), 'last_heartbeat_ts', NOW)
  end)
  clamp_scores(key.rescues(), RESCUE_CLAIM)
  clamp_scores(key.lost(), LONGEST_REPORT_PAUSE)
  clamp_scores(key.node_jobs(node_id), TTL.lease)
end

-- Marks a node dead. It leaves dispatch. Jobs that waited for it alone wait for any node of their pools. Its own jobs
-- are due for rescue. Its score in `key.nodes` becomes negative (minus its last heartbeat), so no call marks it again.
local function mark_node_dead(node_id, last_heartbeat)
  redis.call('HSET', key.node_info(node_id), 'online', 'false', 'state', '')
  start_term(node_id)
  if redis.call('ZSCORE', key.rescues(), node_id) == false then record_suspects(node_id) end
  update_free_sets(node_id)
  release_lines_of_node(node_id)
  enqueue_rescue(node_id)
  redis.call('ZADD', key.nodes(), -last_heartbeat, node_id)
  if has_died(node_id) then
    emit_event('node_died', 'node', node_id, 'last_heartbeat_ts', last_heartbeat)
    increment_counter('', 'node_deaths')
  end
end

-- Has this call time for one more node?
local function may_sweep(node_id)
  local _, indexes = string.gsub(redis.call('HGET', key.node_info(node_id), 'offers') or '', '\n', '')
  if indexes_left <= 0 or index_entries_left <= 0 or claims_left <= 0 then return false end
  indexes_left = indexes_left - indexes
  claims_left = claims_left - math.min(redis.call('ZCARD', key.node_jobs(node_id)), MOST_CLAIMS)
  return true
end

-- Forgets nodes that were silent for history_ttl. A node that still has jobs or messages stays. Each call starts at
-- another place, so such nodes never block the others. Returns whether this call has made progress.
local function forget_nodes()
  local progress = false
  local function forget_node(node_id)
    if redis.call('EXISTS', key.node_jobs(node_id), key.node_unacked(node_id)) > 0 or not may_sweep(node_id) then
      return false
    end
    leave_indexes(node_id)
    redis.call('DEL', key.node_info(node_id), key.node_runtime(node_id))
    redis.call('ZREM', key.nodes(), node_id)
    return true
  end
  local silent = redis.call('ZCOUNT', key.nodes(), TTL.history - NOW, -1)
  local first = NOW % math.max(1, silent - MOST_SWEPT + 1)
  for _, node_id in ipairs(redis.call('ZRANGEBYSCORE', key.nodes(), TTL.history - NOW, -1,
      'LIMIT', first, MOST_SWEPT)) do
    progress = attempt(forget_node, node_id) or progress
  end
  return progress
end

-- Marks nodes dead that were silent for node_ttl, and forgets nodes that were silent for history_ttl. Returns whether
-- more are left, if this call has made progress.
local function sweep_nodes()
  local progress = false
  local function mark_silent_node(node_id, last_heartbeat)
    if not may_sweep(node_id) then return false end
    mark_node_dead(node_id, last_heartbeat)
    return true
  end
  local silent = redis.call('ZRANGEBYSCORE', key.nodes(), 0, NOW - TTL.node - 1,
    'WITHSCORES', 'LIMIT', 0, MOST_SWEPT)
  for i = 1, #silent, 2 do
    progress = attempt(mark_silent_node, silent[i], tonumber(silent[i + 1])) or progress
  end
  progress = forget_nodes() or progress
  return progress and redis.call('ZCOUNT', key.nodes(), TTL.history - NOW, NOW - TTL.node - 1) > 0
end

-- The jobs of a sorted set that are due, at most `most`.
local function due_jobs(set, before, most)
  return redis.call('ZRANGEBYSCORE', set, '-inf', before, 'LIMIT', 0, most)
end

-- Places the delayed jobs that are due. Returns whether more may be left.
local function place_delayed()
  local jobs = due_jobs(key.delayed(), NOW, MOST_DUE)
  return place_due_jobs(jobs) < #jobs or #jobs == MOST_DUE
end

-- Moves messages of expired jobs to the node. It gets no more than it reads, since its own jobs stand behind them in
-- its queue. Returns when the node should send a heartbeat for more, nil if there are no more.
local function discard_expired(node_id)
  local jobs = due_jobs(key.expiring(), expired_before(), MOST_EXPIRED)
  for _, job_id in ipairs(jobs) do
    if bytes_left <= 0 then return NOW end
    if not has_room(node_id) then return NOW + QUEUE_PAUSE end
    redis.call('ZREM', key.expiring(), job_id)
    attempt(function()
      local was_revoked = redis.call('HGET', key.job(job_id), 'reason') == 'revoked'
      discard_job(read_job(job_id), node_id, was_revoked and 'revoked' or 'expired')
    end)
  end
  return #jobs == MOST_EXPIRED and NOW or nil
end

-- Asks this node to send a heartbeat when the next work is due, unless another node was asked. Without this rule, all
-- nodes would send one for each delayed job. Returns the milliseconds until then, -1 if another node was asked.
local function request_wakeup(node_id, soonest)
  if is_another_asked(node_id, soonest) then return -1 end
  redis.call('HSET', key.alarm(), 'node_id', node_id, 'at', soonest)
  redis.call('PEXPIRE', key.alarm(), TTL.history)
  return soonest - NOW
end

-- Runs the maintenance that is due during this node's heartbeat. If the caller does rescues itself (`is_rescuer`),
-- leaves them to the caller. Returns the milliseconds until this node should send the next heartbeat: 0 if this call
-- reached a limit, else until the next work is due. -1 means that nothing is due, or that another node was asked.
local function run_maintenance(node_id, priority_suffixes, is_rescuer)
  local silence_counts, was_set_back = record_heartbeat()
  if was_set_back then clamp_stored_times(node_id) end
  local more = silence_counts and sweep_nodes()
  more = reindex_changed_pairs() or more
  if not is_rescuer then more = continue_rescues(priority_suffixes) or more end
  more = place_delayed() or more
  local expired_at = read_working_node(node_id) and discard_expired(node_id) or nil
  local delayed_at = more and NOW or redis.call('ZRANGE', key.delayed(), 0, 0, 'WITHSCORES')[2]
  local soonest = math.min(tonumber(delayed_at or math.huge), expired_at or math.huge)
  return soonest < math.huge and request_wakeup(node_id, math.max(NOW, soonest)) or -1
end
