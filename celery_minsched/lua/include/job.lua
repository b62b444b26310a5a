-- include: node
-- A job's slot and its record. A slot is the job's membership in the node's set of jobs, so taking
-- it twice or freeing it twice changes nothing.

local ENDED = {finished = true, failed = true, lost = true}

local function hold_slot(node_id, job_id, until_ms)
  redis.call('ZADD', key.node_jobs(node_id), until_ms, job_id)
end

local function end_job(job_id, status, reason, now, history_ttl)
  redis.call('HSET', key.job(job_id), 'status', status, 'reason', reason, 'ended_ts', now)
  redis.call('PEXPIRE', key.job(job_id), history_ttl)
end

-- A node says that it holds the job: renews the lease, half-way through it so as not to write at
-- every heartbeat. A job of which Redis has lost the record, or only the slot, is taken up again:
-- what the node runs is the truth. False: the job is not this node's.
local function confirm_job(node_id, job_id, now, lease, history_ttl)
  local until_ms = tonumber(redis.call('ZSCORE', key.node_jobs(node_id), job_id) or -1)
  if until_ms > now + lease / 2 then return true end
  local job = redis.call('HMGET', key.job(job_id), 'node_id', 'status', 'task_id')
  if until_ms < 0 and job[2] then
    if job[1] ~= node_id then return false end
    if ENDED[job[2]] and job[2] ~= 'lost' then return true end  -- it ended since the node looked
  end
  hold_slot(node_id, job_id, now + lease)
  if job[2] ~= 'running' then
    redis.call('HSET', key.job(job_id), 'node_id', node_id, 'status', 'running')
    redis.call('HSETNX', key.job(job_id), 'started_ts', now)
    redis.call('HDEL', key.job(job_id), 'ended_ts', 'reason')
  end
  redis.call('PEXPIRE', key.job(job_id), history_ttl)
  if job[3] and job[3] ~= '' then redis.call('PEXPIRE', key.task(job[3]), history_ttl) end
  return true
end

-- Frees the slots whose lease ran out: the node was asked and did not say that it holds them. While
-- messages lie in the node's queue, theirs may be among them, and they wait for the next call.
local function lapse_jobs(node_id, now, history_ttl, most)
  local lapsed = redis.call('ZRANGEBYSCORE', key.node_jobs(node_id), '-inf', now, 'LIMIT', 0, most)
  if #lapsed == 0 then return end
  for _, suffix in ipairs({'', '\6\0223', '\6\0226', '\6\0229'}) do  -- kombu's priority steps
    if redis.call('EXISTS', key.node_queue(node_id) .. suffix) == 1 then return end
  end
  for _, job_id in ipairs(lapsed) do
    redis.call('ZREM', key.node_jobs(node_id), job_id)
    end_job(job_id, 'lost', 'its message never reached the node, or its end was never told', now,
      history_ttl)
  end
end
