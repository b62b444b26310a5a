-- include: rescue
-- Puts a job right. Its record says where it belongs, and it is taken out of wherever else it was seen.
-- A slot that the record states and that is gone is taken again: the node confirms it or it lapses. A
-- message whose job is nowhere is placed. A job with no message and no slot is lost, and its caller gets
-- an error. Changes nothing of a job that is right.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua     ARGV[2] job_id
-- ARGV[3] a node in whose set it was seen, "" for none
-- ARGV[4] a line in which it was seen, "" for none
-- ARGV[5] its ticket there
-- ARGV[6] JSON object of strings: the fields of the job as its message tells them, "" for none
-- ARGV[7] a task whose key names the job, "" for none
--
-- Returns {"OK"}

write_even_without_memory()
local job, seen_at, line, ticket = read_job(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local told, task_id = ARGV[6] ~= '' and cjson.decode(ARGV[6]), ARGV[7]

local function is_in(set) return redis.call('ZSCORE', set, job.id) ~= false end

-- What a job without a record is, its node's set tells, or its message. That tells too what a job asks
-- for whose record was made anew by its node.
if job.status == '' and seen_at ~= '' and is_in(key.node_jobs(seen_at)) then
  confirm_job(seen_at, job.id)
elseif told and job.where == '' and redis.call('EXISTS', key.job_queue(job.id) .. told.suffix) == 1 then
  if job.status == 'waiting' then leave_line(job) end
  if job.status == '' then told.status, told.created_ts = 'parked', NOW end
  for field, value in pairs(told) do redis.call('HSET', key.job(job.id), field, value) end
  if told.task_id ~= '' and not redis.call('SET', key.task(told.task_id), job.id, 'NX') then
    local latest = redis.call('GET', key.task(told.task_id))
    if latest ~= job.id then note_successor(job.id, latest) end
  end
end
job = read_job(job.id)
if job.node_id == '' and (job.status == 'dispatched' or job.status == 'running') then
  redis.call('HSET', key.job(job.id), 'status', 'parked')
  job.status = 'parked'
end
local has_slot = job.status == 'dispatched' or job.status == 'running'
local can_be_placed = is_parked(job) and job.where ~= ''

-- Where it does not belong.
local freed
if seen_at ~= '' and not (has_slot and job.node_id == seen_at) and is_in(key.node_jobs(seen_at)) then
  redis.call('ZREM', key.node_jobs(seen_at), job.id)
  place_node(seen_at)
  freed = seen_at
end
if line ~= '' and not (job.status == 'waiting' and job.line == line and job.ticket == ticket) then
  leave_line({line = line, ticket = ticket, band = job.band})
end
if job.status ~= 'delayed' then redis.call('ZREM', key.delayed(), job.id) end
if not PARKED[job.status] then redis.call('ZREM', key.expiring(), job.id) end

-- Where it belongs.
local function put_in_place()
  if job.status == '' then
    redis.call('PEXPIRE', key.job(job.id), TTL.history)
  elseif has_slot then
    if not is_in(key.node_jobs(job.node_id)) then
      redis.call('ZADD', key.node_jobs(job.node_id), NOW + TTL.lease, job.id)
      place_node(job.node_id)
      if is_absent(job.node_id) then give_up_node(job.node_id) end
    end
    expire_record(job)
  elseif ENDED[job.status] then
    expire_record(job)
    if is_in(key.lost()) or not is_parked(job) then return end
    if job.status ~= 'lost' then
      settle_ended(job)
    elseif can_be_placed then
      place_parked(job)
    end
  end
end

-- Of a job that is parked.
local function put_in_line()
  local is_right
  if job.status == 'waiting' then
    is_right = redis.call('ZSCORE', key.waiting(job.line), job.ticket) ~= false
  elseif job.status == 'delayed' then
    is_right = is_in(key.delayed())
  else
    is_right = is_in(key.expiring())  -- it ended, and its message is yet to be discarded
  end
  if job.status ~= 'parked' and is_latest(job) then
    redis.call('SET', key.task(job.task_id), job.id, 'NX')
  end
  if job.status ~= 'parked' or not is_right then keep_record(job) end
  if is_parked(job) then
    if not is_right and can_be_placed then place_parked(job) end
  else
    if job.status == 'waiting' then give_up_place(job) end
    redis.call('ZREM', key.delayed(), job.id)
    redis.call('ZREM', key.expiring(), job.id)
    lose_job(job, 'its message is gone')
  end
end

if PARKED[job.status] then put_in_line() else put_in_place() end
if task_id ~= '' and not PARKED[read_job(job.id).status]
  and redis.call('GET', key.task(task_id)) == job.id then
  redis.call('PEXPIRE', key.task(task_id), TTL.history)
end
if freed then fill_node(freed) end
return {'OK'}
