-- include: due
-- include: discard
-- include: relink
-- Maintenance that no event starts. The heartbeat of any node does some of each kind, a bounded number in a call. It
-- comes here if include/due.lua finds that something is due: add a new kind of work there too.

local MOST_CHORES = 50    -- nodes
local indexes_left = 1000 -- indexes of the nodes that this call buries or forgets
local claims_left = 1000  -- jobs of the nodes that this call buries, see note_suspects
local MOST_DUE = 150      -- delayed jobs
local MOST_EXPIRED = 60
local QUEUE_PAUSE = 50    -- ms until a node that has read of its queue is handed expired jobs again

-- The clock was set back: times that lie too far in the future are stored anew. Each node's heartbeat does so
-- for some nodes and rescues, and for its own jobs.
local function clamp_scores(set, ahead, member_changed)
  local limit = NOW + ahead
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', set, '(' .. limit, '+inf', 'LIMIT', 0, MOST_CHORES)) do
    redis.call('ZADD', set, limit, member)
    if member_changed then member_changed(member) end
  end
end

local function clamp_stored_times(node_id)
  clamp_scores(key.nodes(), 0, function(silent)
    redis.call('HSET', key.node_info(silent), 'last_heartbeat_ts', NOW)
  end)
  clamp_scores(key.rescues(), RESCUE_CLAIM)
  clamp_scores(key.lost(), LONGEST_REPORT_PAUSE)
  clamp_scores(key.node_jobs(node_id), TTL.lease)
end

-- Declares a node dead: it leaves dispatch, jobs that waited for it alone wait for any node of their pools, and its
-- jobs are due for rescue. Its score in key.nodes is minus its last heartbeat from now on: no call finds it again.
local function bury_node(node_id, last_heartbeat)
  redis.call('HSET', key.node_info(node_id), 'online', 'false', 'state', '')
  end_term(node_id)
  if redis.call('ZSCORE', key.rescues(), node_id) == false then note_suspects(node_id) end
  place_node(node_id)
  open_lines(node_id)
  give_up_node(node_id)
  redis.call('ZADD', key.nodes(), -last_heartbeat, node_id)
  if has_died(node_id) then
    tell('node_died', 'node', node_id, 'last_heartbeat_ts', last_heartbeat)
    count('', 'node_deaths')
  end
end

-- Has this call time for one more node?
local function may_sweep(node_id)
  local _, indexes = string.gsub(redis.call('HGET', key.node_info(node_id), 'offers') or '', '\n', '')
  if indexes_left <= 0 or links_left <= 0 or claims_left <= 0 then return false end
  indexes_left = indexes_left - indexes
  claims_left = claims_left - math.min(redis.call('ZCARD', key.node_jobs(node_id)), MOST_CLAIMS)
  return true
end

-- Forgets nodes that have been away for long. A node that still has jobs or messages stays. So that such nodes do not
-- stand before the others for ever, each call begins at another place. Returns whether this call has made progress.
local function forget_nodes()
  local progress = false
  local function forget_node(node_id)
    if redis.call('EXISTS', key.node_jobs(node_id), key.node_unacked(node_id)) > 0 or not may_sweep(node_id) then
      return false
    end
    withdraw_offers(node_id)
    redis.call('DEL', key.node_info(node_id), key.node_runtime(node_id))
    redis.call('ZREM', key.nodes(), node_id)
    return true
  end
  local before = redis.call('ZCOUNT', key.nodes(), TTL.history - NOW, -1)
  local first = NOW % math.max(1, before - MOST_CHORES + 1)
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', key.nodes(), TTL.history - NOW, -1,
      'LIMIT', first, MOST_CHORES)) do
    progress = attempt(forget_node, gone) or progress
  end
  return progress
end

-- Buries the nodes that fell silent, and forgets those that have been away for long. Returns whether there are
-- more, if this call has made progress.
local function sweep_nodes()
  local progress = false
  local function bury_silent(node_id, last_heartbeat)
    if not may_sweep(node_id) then return false end
    bury_node(node_id, last_heartbeat)
    return true
  end
  local silent = redis.call('ZRANGEBYSCORE', key.nodes(), 0, NOW - TTL.node - 1,
    'WITHSCORES', 'LIMIT', 0, MOST_CHORES)
  for i = 1, #silent, 2 do
    progress = attempt(bury_silent, silent[i], tonumber(silent[i + 1])) or progress
  end
  progress = forget_nodes() or progress
  return progress and redis.call('ZCOUNT', key.nodes(), TTL.history - NOW, NOW - TTL.node - 1) > 0
end

-- The jobs of a sorted set whose time has come, so many at most.
local function due(set, before, most)
  return redis.call('ZRANGEBYSCORE', set, '-inf', before, 'LIMIT', 0, most)
end

-- Places the delayed jobs that are due. Returns whether there may be more.
local function place_delayed()
  local jobs = due(key.delayed(), NOW, MOST_DUE)
  return place_due(jobs) < #jobs or #jobs == MOST_DUE
end

-- Hands messages of jobs that have expired to the node, no more than it reads: its own jobs come behind them in its
-- queue. Returns when the node should send a heartbeat for more, nil if there are no more.
local function discard_expired(node_id)
  local jobs = due(key.expiring(), expired_before(), MOST_EXPIRED)
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

-- Asks this node to send a heartbeat when the next work is due, unless another node was asked: if not, all nodes of a
-- fleet would send one for each delayed job. Returns the milliseconds until then, -1 if another node was asked.
local function ask_to_come(node_id, soonest)
  if is_another_asked(node_id, soonest) then return -1 end
  redis.call('HSET', key.alarm(), 'node_id', node_id, 'at', soonest)
  redis.call('PEXPIRE', key.alarm(), TTL.history)
  return soonest - NOW
end

-- Runs the maintenance that is due during this node's heartbeat. If the caller reads messages (`is_rescuer`), it does
-- the rescues. Returns the milliseconds until this node should send the next heartbeat: 0 if this call did as much as
-- one call may, else until the next work is due; -1 if nothing is due, or another node was asked.
local function do_chores(node_id, suffixes, is_rescuer)
  local silence_counts, was_set_back = note_heartbeat()
  if was_set_back then clamp_stored_times(node_id) end
  local more = silence_counts and sweep_nodes()
  more = relink_changed() or more
  if not is_rescuer then more = rescue_due(suffixes) or more end
  more = place_delayed() or more
  local expired_at = takes_jobs(node_id) and discard_expired(node_id) or nil
  local delayed_at = more and NOW or redis.call('ZRANGE', key.delayed(), 0, 0, 'WITHSCORES')[2]
  local soonest = math.min(tonumber(delayed_at or math.huge), expired_at or math.huge)
  return soonest < math.huge and ask_to_come(node_id, math.max(NOW, soonest)) or -1
end
