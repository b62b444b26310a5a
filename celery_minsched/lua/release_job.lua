-- include: job
-- Undoes a dispatch whose message could not be sent, as far as the caller can tell. Should the
-- message have been sent all the same, the node that receives it takes a slot for it again.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] job_id       ARGV[2] history_ttl, ms
--
-- Returns {"OK"}

local job_id, history_ttl = ARGV[1], tonumber(ARGV[2])

local job = redis.call('HMGET', key.job(job_id), 'node_id', 'status')
if job[2] == 'dispatched' then
  redis.call('ZREM', key.node_jobs(job[1]), job_id)
  end_job(job_id, 'lost', 'its message could not be sent', now_ms(), history_ttl)
  place_node(job[1])
end
return {'OK'}
