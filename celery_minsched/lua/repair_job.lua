-- include: rescue
-- Repairs a job. Its record names its place, and it is removed from all other places. If the record states that the
-- job has a slot, and the slot is gone, the job takes the slot again: the node confirms it, or its lease ends. A job
-- with a message and no place is placed. A job without a message and a slot is lost, and its caller gets an error. A
-- job without a fault is not changed.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] job_id
-- ARGV[3] seen_at: a node in whose set the job was seen, "" for none
-- ARGV[4] line in which it was seen, "" for none
-- ARGV[5] queue_entry of the job in that line
-- ARGV[6] message_fields: JSON object of strings, the job's fields as its message states them; "" for none
-- ARGV[7] task_id whose key names the job, "" for none
--
-- Returns {"OK"}

write_even_without_memory()
local job, seen_at, line, queue_entry = read_job(ARGV.job_id), ARGV.seen_at, ARGV.line, ARGV.queue_entry
local message_fields, task_id = ARGV.message_fields ~= '' and cjson.decode(ARGV.message_fields), ARGV.task_id

local function is_in(set) return redis.call('ZSCORE', set, job.id) ~= false end

local function has_lost_demand()
  return message_fields and job.where == ''
    and redis.call('EXISTS', key.job_queue(job.id) .. message_fields.suffix) == 1
end

-- Restores the demand from the message.
local function restore_demand()
  if job.status == 'waiting' then leave_line(job) end
  if job.status == '' then message_fields.status, message_fields.created_ts = 'parked', NOW end
  for field, value in pairs(message_fields) do redis.call('HSET', key.job(job.id), field, value) end
  if message_fields.task_id ~= '' and not redis.call('SET', key.task(message_fields.task_id), job.id, 'NX') then
    local latest = redis.call('GET', key.task(message_fields.task_id))
    if latest ~= job.id then record_successor(job.id, latest) end
  end
end

-- If the record is lost, the node's set or the message has what the record said.
if job.status == '' and seen_at ~= '' and is_in(key.node_jobs(seen_at)) then
  confirm_job(seen_at, job.id)
elseif has_lost_demand() then
  restore_demand()
end
job = read_job(job.id)
if job.node_id == '' and (job.status == 'dispatched' or job.status == 'running') then
  redis.call('HSET', key.job(job.id), 'status', 'parked')
  job.status = 'parked'
end
local has_slot = job.status == 'dispatched' or job.status == 'running'
local can_be_placed = has_own_message(job) and job.where ~= ''

-- The record names the place of the job. Remove the job from other places.
local freed
if seen_at ~= '' and not (has_slot and job.node_id == seen_at) and is_in(key.node_jobs(seen_at)) then
  redis.call('ZREM', key.node_jobs(seen_at), job.id)
  update_free_sets(seen_at)
  freed = seen_at
end
if line ~= '' and not (job.status == 'waiting' and job.line == line and job.ticket == queue_entry) then
  leave_line({line = line, ticket = queue_entry, band = job.band})
end
if job.status ~= 'delayed' then redis.call('ZREM', key.delayed(), job.id) end
if not UNASSIGNED[job.status] then redis.call('ZREM', key.expiring(), job.id) end

-- Restores the slot of a job that has one, or finalizes a job that has ended.
local function repair_assigned()
  if job.status == '' then
    redis.call('PEXPIRE', key.job(job.id), TTL.history)
  elseif has_slot then
    if not is_in(key.node_jobs(job.node_id)) then
      redis.call('ZADD', key.node_jobs(job.node_id), NOW + TTL.lease, job.id)
      update_free_sets(job.node_id)
      if is_absent(job.node_id) then enqueue_rescue(job.node_id) end
    end
    expire_record(job)
  elseif ENDED[job.status] then
    expire_record(job)
    if is_in(key.lost()) or not has_own_message(job) then return end
    if job.status ~= 'lost' then
      finalize_ended(job)
    elseif can_be_placed then
      place_unassigned(job)
    end
  end
end

local function is_in_its_place()
  if job.status == 'waiting' then return redis.call('ZSCORE', key.waiting(job.line), job.ticket) ~= false end
  if job.status == 'delayed' then return is_in(key.delayed()) end
  return is_in(key.expiring())  -- the job has ended, and its message waits for a node that discards it
end

-- Places a job without a slot, or marks it lost if its message is gone.
local function repair_unassigned()
  local is_right = is_in_its_place()
  if job.status ~= 'parked' and is_latest_of_task(job) then
    redis.call('SET', key.task(job.task_id), job.id, 'NX')
  end
  if job.status ~= 'parked' or not is_right then persist_record(job) end
  if has_own_message(job) then
    if not is_right and can_be_placed then place_unassigned(job) end
  else
    stop_waiting(job)
    redis.call('ZREM', key.expiring(), job.id)
    mark_job_lost(job, 'its message is gone')
  end
end

if UNASSIGNED[job.status] then repair_unassigned() else repair_assigned() end
if task_id ~= '' and not UNASSIGNED[read_job(job.id).status]
  and redis.call('GET', key.task(task_id)) == job.id then
  redis.call('PEXPIRE', key.task(task_id), TTL.history)
end
if freed then assign_waiting_jobs(freed) end
return {'OK'}
