-- include: place
-- A task was revoked: if its job waits, it is taken out of the line and its message handed to this
-- node, whose worker knows of the revocation and tells the caller.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua     ARGV[2] task_id          ARGV[3] node_id
--
-- Returns {"OK", "discarded" | "unchanged"}

local job_id = redis.call('GET', key.task(ARGV[2]))
if not job_id then return {'OK', 'unchanged'} end
write_even_without_memory()
return {'OK', discard_job(read_job(job_id), ARGV[3], 'revoked') and 'discarded' or 'unchanged'}
