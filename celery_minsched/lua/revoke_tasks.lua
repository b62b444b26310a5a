-- include: discard
-- Takes the waiting and the delayed jobs of revoked tasks out of line. Their messages go to this node. If its queue is
-- long, they go to a node that is heard later. The worker of that node reports the end to the caller. A job that was
-- revoked before is left alone.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua     ARGV[2] node_id
-- ARGV[3...] task ids, 50 at most
--
-- Returns {"OK", jobs that were taken out of line}

local revoked = 0
for i = 3, #ARGV do
  local job_id = redis.call('GET', key.task(ARGV[i]))
  local status = job_id and redis.call('HGET', key.job(job_id), 'status')
  if status == 'waiting' or status == 'delayed' then
    write_even_without_memory()
    if revoke_job(read_job(job_id), ARGV[2]) then revoked = revoked + 1 end
  end
end
return {'OK', revoked}
