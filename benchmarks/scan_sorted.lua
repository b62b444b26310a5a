-- The best scan that was found: one command reads what is needed of all members of a pool.
-- Only the look; no slot is taken and no job is recorded.
--
-- KEYS[1] prefix of the scheduler's keys     ARGV[1] pool_id
--
-- Returns node_id, or nil where every slot is taken

local node = KEYS[1] .. 'node:'
local told = redis.call('SORT', KEYS[1] .. 'pool:' .. ARGV[1] .. ':members', 'BY', 'nosort',
  'GET', '#', 'GET', node .. 'info:*->online', 'GET', node .. 'info:*->max_jobs',
  'GET', node .. 'runtime:*->current_jobs')
local best, least
for at = 1, #told, 4 do
  if told[at + 1] == 'true' then
    local max_jobs, taken = tonumber(told[at + 2]), tonumber(told[at + 3] or 0)
    if taken < max_jobs and (not least or taken / max_jobs < least) then
      best, least = told[at], taken / max_jobs
    end
  end
end
return best
