-- include: rescue
-- What no event brings about, done by the heartbeats of whichever node comes by, a bounded number of
-- each a call.

local MOST_CHORES = 50
-- A publisher has long sent the message after this time, ms; and is gone where none lies there.
local PATIENCE = 2000

-- Nobody is taken for dead unless heartbeats came in all that time: after Redis itself was away, all
-- nodes look silent.
local function is_hearing()
  local heard = redis.call('HMGET', key.heard(), 'last', 'since')
  local since = tonumber(heard[2] or NOW)
  if NOW - tonumber(heard[1] or 0) > 0.75 * TTL.node then since = NOW end
  redis.call('HSET', key.heard(), 'last', NOW, 'since', since)
  redis.call('PEXPIRE', key.heard(), TTL.history)
  return NOW - since > TTL.node
end

-- Nodes that fell silent leave dispatch, those who waited for them alone wait for others too, and
-- their jobs are rescued. A silent node then stands at minus its last heartbeat, so that the next call
-- meets the next ones. One that has been away for long is forgotten.
local function sweep_nodes()
  if not is_hearing() then return end
  local silent = redis.call('ZRANGEBYSCORE', key.nodes(), 0, NOW - TTL.node - 1,
    'WITHSCORES', 'LIMIT', 0, MOST_CHORES)
  for i = 1, #silent, 2 do
    is_alive(silent[i])
    open_lines(silent[i])
    give_up_node(silent[i])
    redis.call('ZADD', key.nodes(), -tonumber(silent[i + 1]), silent[i])
  end
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', key.nodes(), TTL.history - NOW, -1,
      'LIMIT', 0, MOST_CHORES)) do
    if redis.call('EXISTS', key.node_jobs(gone), key.node_unacked(gone)) == 0 then
      withdraw_offers(gone)
      redis.call('DEL', key.node_info(gone), key.node_runtime(gone))
      redis.call('ZREM', key.nodes(), gone)
    end
  end
end

-- Places the jobs of a sorted set whose time has come, if their message lies there. One whose
-- publisher died before it sent the message is forgotten, after the time of a lease.
local function place_due(set, before)
  local due = redis.call('ZRANGEBYSCORE', set, '-inf', before, 'WITHSCORES', 'LIMIT', 0, MOST_CHORES)
  for i = 1, #due, 2 do
    local job = read_job(due[i])
    if not PARKED[job.status] then
      redis.call('ZREM', set, job.id)
    elseif is_parked(job) then
      place_parked(job)
    elseif tonumber(due[i + 1]) < NOW - TTL.lease then
      redis.call('ZREM', set, job.id)
      lose_job(job, 'its publisher took a place for it and never sent the message')
    elseif set ~= key.parking() then
      redis.call('ZREM', set, job.id)
      redis.call('ZADD', key.parking(), NOW, job.id)
      redis.call('HSET', key.job(job.id), 'status', 'parking')
    end
  end
end

-- A second late, so that a node whose clock is a little behind finds them expired too.
local function discard_expired(node_id)
  for _, job_id in ipairs(redis.call('ZRANGEBYSCORE', key.expiring(), '-inf', NOW - 1000,
      'LIMIT', 0, MOST_CHORES)) do
    redis.call('ZREM', key.expiring(), job_id)
    discard_job(read_job(job_id), node_id, 'expired')
  end
end

-- Does all that is due, for the node that is heard. Returns the milliseconds until the next delayed job
-- falls due, -1 for none.
local function do_chores(node_id, suffixes)
  sweep_nodes()
  rescue_due(suffixes)
  place_due(key.delayed(), NOW)
  place_due(key.parking(), NOW - PATIENCE)
  if takes_jobs(node_id) then discard_expired(node_id) end
  local soonest = redis.call('ZRANGE', key.delayed(), 0, 0, 'WITHSCORES')[2]
  return soonest and math.max(0, tonumber(soonest) - NOW) or -1
end
