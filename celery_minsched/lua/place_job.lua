-- include: place
-- Places a job whose message lies in its own list: at a node that has a slot, or in line, in one
-- step, so that no slot that frees meanwhile goes unseen. Called by a node that hands a message back.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] job_id       ARGV[3] the node that hands it back
-- ARGV[4] "requeued" if the job's task has begun and asks for its message again: its slot is offered to
--         the line first, and the job joins the end of its line. "" if the node gives the job back: it
--         goes to the head.
--
-- Returns {"OK", "dispatched" | "waiting" | "delayed" | "lost"}
--         {"OK", "unchanged"}   it was placed already, has ended, or no message lies there

write_even_without_memory()
local job, giver = read_job(ARGV[2]), ARGV[3]
job.is_requeued = ARGV[4] == 'requeued'
local is_handed_back = job.node_id ~= '' and job.node_id == giver
  and (job.status == 'dispatched' or job.status == 'running')
if job.status ~= 'lost' and ENDED[job.status] and is_parked(job) then settle_ended(job) end
local is_nowhere = job.status == 'parked' and not awaits_discard(job)
  or job.status == 'delayed' or job.status == 'lost'
if not (is_handed_back or is_nowhere) or not is_parked(job) then return {'OK', 'unchanged'} end
return {'OK', place_parked(job)}
