-- include: line
-- Undoes a dispatch whose message could not be sent, as far as the caller can tell. Should the
-- message have been sent all the same, the node that receives it takes a slot for it again, and a
-- parked one is placed by no one but a call of place_job.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua     ARGV[2] job_id
--
-- Returns {"OK"}

local job = read_job(ARGV[2])
if job.status == 'dispatched' or job.status == 'parking' or job.status == 'delayed' then
  arrive(job)
  local freed = free_slot(job)
  end_job(job, 'lost', 'its message could not be sent', 'unsent')
  if freed then fill_node(freed) end
end
return {'OK'}
