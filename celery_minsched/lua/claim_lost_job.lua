-- include: rescue
-- Gives out one lost job, which a node is to report to the job's caller. No other node gets the job for as long
-- as it has been lost, and for ten seconds at least: a job that cannot be reported comes back, each time after
-- a longer pause. A job that no node could report for as long as Redis keeps ended jobs is given up.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
--
-- Returns {"OK", job_id}
--         {"OK", ""}   no job is due

local function pause_after(age) return math.max(RESCUE_CLAIM, math.min(age, LONGEST_REPORT_PAUSE)) end

local function give_up(job, tag)
  forget_message(job.node_id, tag)
  redis.call('DEL', parked_list(job))
  redis.call('ZREM', key.lost(), job.id)
  tell('job_unreported', 'job', job.id, 'task', job.task_id, 'node', job.node_id)
end

write_even_without_memory()
for _, job_id in ipairs(due_of(key.lost(), LONGEST_REPORT_PAUSE, MOST_RESCUED)) do
  local told = attempt(redis.call, 'HMGET', key.job(job_id), 'ended_ts', 'tag')
  local age = told and NOW - clamp(told[1] or NOW)
  if not told then
    redis.call('ZREM', key.lost(), job_id)
  elseif age > TTL.history then
    give_up(read_job(job_id), told[2] or '')
  else
    redis.call('ZADD', key.lost(), NOW + pause_after(age), job_id)
    expire_record(read_job(job_id))
    return {'OK', job_id}
  end
end
return {'OK', ''}
