-- include: place
-- Undoes a dispatch whose message the caller could not send, as far as the caller knows. If the message was sent after
-- all, the node that receives it takes a slot for it again.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] job_id
--
-- Returns {"OK"}

local job = read_job(ARGV.job_id)
if job.status == 'dispatched' then
  write_even_without_memory()
  free_slot(job)
  end_job(job, 'lost', 'its message could not be sent', 'unsent')
  assign_waiting_jobs(job.node_id)
end
return {'OK'}
