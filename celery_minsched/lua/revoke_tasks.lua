-- include: discard
-- Removes the waiting and the delayed jobs of revoked tasks from their lines. Their messages go to this node, whose
-- worker reports the end to the caller. If the node's queue is long, they go to another node at a later heartbeat. A
-- job that was revoked before is not changed.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] node_id
-- ARGV[3...] task_ids, at most 50
--
-- Returns {"OK", jobs removed from their lines}

local revoked = 0
for task_id in ARGV.task_ids do
  local job_id = redis.call('GET', key.task(task_id))
  local status = job_id and redis.call('HGET', key.job(job_id), 'status')
  if status == 'waiting' or status == 'delayed' then
    write_even_without_memory()
    if revoke_job(read_job(job_id), ARGV.node_id) then revoked = revoked + 1 end
  end
end
return {'OK', revoked}
