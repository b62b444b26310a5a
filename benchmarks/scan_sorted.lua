-- The fastest known scan: one command reads the needed fields of all members of a pool.
-- It takes no slot and records no job.
--
-- KEYS[1] prefix of the scheduler's keys     ARGV[1] pool_id
--
-- Returns node_id, or nil if all slots are taken

local node = KEYS[1] .. 'node:'
local fields = redis.call('SORT', KEYS[1] .. 'pool:' .. ARGV[1] .. ':members', 'BY', 'nosort',
  'GET', '#', 'GET', node .. 'info:*->online', 'GET', node .. 'info:*->max_jobs',
  'GET', node .. 'runtime:*->current_jobs')
local best, least
for at = 1, #fields, 4 do
  if fields[at + 1] == 'true' then
    local max_jobs, taken = tonumber(fields[at + 2]), tonumber(fields[at + 3] or 0)
    if taken < max_jobs and (not least or taken / max_jobs < least) then
      best, least = fields[at], taken / max_jobs
    end
  end
end
return best
