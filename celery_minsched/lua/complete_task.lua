-- include: job
-- Frees a job's slot and records how the job ended. In the same step, the first waiting job that this node can do gets
-- the slot. With `next_claim`, the node takes that job by this claim, and the answer brings the job's message. A second
-- call changes nothing, and brings the same job.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] job_id
-- ARGV[3] node_id
-- ARGV[4] status, "finished" or "failed"
-- ARGV[5] reason, "" if the status is enough
-- ARGV[6] delivery_tag of the job's message, which the node forgets; "" for none
-- ARGV[7] claim by which the node ran the job; "" or left out for none
-- ARGV[8] next_claim: the claim by which the node takes its next job, a name that differs from those of earlier claims;
--         "" or left out if the node takes no job in the answer
--
-- Returns {"OK"}
--         {"OK", job_id, message, pool, chosen_by, ms in line, the node's term}   the node has this job now. It is
--                             claimed, and its message is unacknowledged with the delivery tag next_claim. If Redis has
--                             no memory, the answer brings no job
--         {"ALREADY_ENDED"}   also if the node has claimed the job again since: this run was given up
--         {"ALREADY_ENDED", job_id, message, pool, chosen_by, ms in line, the node's term}   the node has this job by
--                             the same next_claim since an earlier call, and may not have its answer
--         {"NODE_MISMATCH", the node that has the job, "" for none}
--         {"UNKNOWN_JOB"}

local record = redis.call('HMGET', key.job(ARGV.job_id), 'status', 'node_id', 'claim', 'pool', 'suffix', 'task_id',
  'successor', 'expires_ts')
local job = {id = ARGV.job_id, status = record[1] or '', node_id = record[2] or '', claim = record[3] or '',
  pool = record[4] or '', suffix = record[5] or '', task_id = record[6] or '', successor = record[7] or '',
  expires_ts = record[8] or ''}
local node_id, claim, next_claim = ARGV.node_id, ARGV.claim or '', ARGV.next_claim or ''

local is_given_up = claim ~= '' and job.claim ~= '' and job.claim ~= claim
  and job.status == 'running' and job.node_id == node_id
if is_given_up then return {'ALREADY_ENDED'} end
-- A lost job may still end. Then its real end counts.
local has_ended = ENDED[job.status] and job.status ~= 'lost' and job.node_id == node_id
local brings_job = next_claim ~= '' and not has_ended and has_memory()
if ARGV.delivery_tag ~= '' then forget_message(node_id, ARGV.delivery_tag) end
if job.status == '' then return {'UNKNOWN_JOB'} end
if job.node_id ~= node_id or UNASSIGNED[job.status] then
  return {'NODE_MISMATCH', UNASSIGNED[job.status] and '' or job.node_id}
end
local freed = 0  -- slots
if not has_ended then
  freed = redis.call('ZREM', key.node_jobs(node_id), job.id)
  if job.status == 'lost' then redis.call('ZREM', key.lost(), job.id) end
  end_job(job, ARGV.status, ARGV.reason)
  -- Redis counts the second key twice. It is there if the job has a second message, after a lost connection.
  local found = redis.call('EXISTS', key.lines(), own_list(job), own_list(job))
  if found >= 2 then redis.call('DEL', own_list(job)) end
  if found % 2 == 0 then  -- most calls end here: no job waits
    update_free_sets_of(read_node(node_id))
    return {'OK'}
  end
end

-- include: assignment
-- include: claim

if has_ended then
  local next_id = next_claim ~= '' and redis.call('HGET', key.job(job.id), 'next_job')
  local message = next_id and message_of_claim(node_id, next_id, next_claim)
  if not message then return {'ALREADY_ENDED'} end
  return {'ALREADY_ENDED', next_id, message, place_of_claim(next_id, node_id)}
end

local next_job, answer = nil, {'OK'}
local function take(waiting_job, node)
  local message = not next_job and take_own_message(waiting_job, node_id, next_claim)
  if not message then return nil end
  next_job = waiting_job
  answer = {'OK', next_job.id, message, '', '', 0, number(node[TERM])}
  return next_claim
end
-- An assignment updates the free sets too.
if fill_slots(node_id, brings_job and take, freed) == 0 then update_free_sets(node_id) end
if next_job then
  answer[4], answer[5], answer[6] = next_job.pool, 'first_free', next_job.waited_ms or 0
  redis.call('HSET', key.job(job.id), 'next_job', next_job.id)
end
return answer
