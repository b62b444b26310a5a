-- The scan of the original specification: reads all members of a pool and returns the least loaded node.
-- It takes no slot and records no job.
--
-- KEYS[1] prefix of the scheduler's keys     ARGV[1] pool_id
--
-- Returns node_id, or nil if all slots are taken

local best, least
for _, node_id in ipairs(redis.call('SMEMBERS', KEYS[1] .. 'pool:' .. ARGV[1] .. ':members')) do
  local info, runtime = KEYS[1] .. 'node:info:' .. node_id, KEYS[1] .. 'node:runtime:' .. node_id
  if redis.call('HGET', info, 'online') == 'true' then
    local max_jobs = tonumber(redis.call('HGET', info, 'max_jobs'))
    local taken = tonumber(redis.call('HGET', runtime, 'current_jobs') or 0)
    if taken < max_jobs and (not least or taken / max_jobs < least) then
      best, least = node_id, taken / max_jobs
    end
  end
end
return best
