-- include: rescue
-- Returns one lost job, which the caller reports to the job's caller. No other node gets the job for as long as it has
-- been lost, or for ten seconds if that is longer. So a job that cannot be reported comes back after longer and longer
-- pauses. After history_ttl it is given up.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
--
-- Returns {"OK", job_id}
--         {"OK", ""}   no job is due

local function pause_after(age) return math.max(RESCUE_CLAIM, math.min(age, LONGEST_REPORT_PAUSE)) end

local function give_up(job, delivery_tag)
  forget_message(job.node_id, delivery_tag)
  redis.call('DEL', own_list(job))
  redis.call('ZREM', key.lost(), job.id)
  emit_event('job_unreported', 'job', job.id, 'task', job.task_id, 'node', job.node_id)
end

write_even_without_memory()
for _, job_id in ipairs(due_members(key.lost(), LONGEST_REPORT_PAUSE, MOST_RESCUED)) do
  local record = attempt(redis.call, 'HMGET', key.job(job_id), 'ended_ts', 'tag')
  local age = record and NOW - clamp(record[1] or NOW)
  if not record then
    redis.call('ZREM', key.lost(), job_id)
  elseif age > TTL.history then
    give_up(read_job(job_id), record[2] or '')
  else
    redis.call('ZADD', key.lost(), NOW + pause_after(age), job_id)
    expire_record(read_job(job_id))
    return {'OK', job_id}
  end
end
return {'OK', ''}
