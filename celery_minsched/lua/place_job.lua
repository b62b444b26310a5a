-- include: place
-- Places a job whose message is in its own list: at a node with a free slot, or in its line. This is one step, so no
-- slot that is freed meanwhile stays free. A node that hands a message back calls it.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] job_id
-- ARGV[3] handed_back_by: the node that hands it back
-- ARGV[4] how: "requeued" if the job's task has begun and asks for its message again. Then the line gets the job's slot
--         first, and the job joins the end of its line. "" if the node gives the job back: then it joins the head
--
-- Returns {"OK", "dispatched" | "waiting" | "delayed" | "lost"}
--         {"OK", "unchanged"}   it was placed already, has ended, or has no message in its own list

write_even_without_memory()
local job, handed_back_by = read_job(ARGV.job_id), ARGV.handed_back_by
job.is_requeued = ARGV.how == 'requeued'
local is_handed_back = job.node_id ~= '' and job.node_id == handed_back_by
  and (job.status == 'dispatched' or job.status == 'running')
if job.status ~= 'lost' and ENDED[job.status] and has_own_message(job) then finalize_ended(job) end
local is_nowhere = job.status == 'parked' and not awaits_discard(job)
  or job.status == 'delayed' or job.status == 'lost'
if not (is_handed_back or is_nowhere) or not has_own_message(job) then return {'OK', 'unchanged'} end
return {'OK', place_unassigned(job)}
