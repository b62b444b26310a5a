-- include: context
-- Which leases of a node's jobs are to be renewed.

-- The jobs of these for which Redis has to be asked more closely: their lease is to be renewed, or they are
-- not known as running at this node. A lease is renewed half-way through it or a little earlier, so as not to
-- write at every heartbeat, nor for all jobs that began at one moment at once.
local function unconfirmed(node_id, job_ids)
  local found = {}
  if #job_ids == 0 then return found end
  local leases = redis.call('ZMSCORE', key.node_jobs(node_id), unpack(job_ids))
  for i, job_id in ipairs(job_ids) do
    local spread = tonumber(string.match(job_id, '%d+$') or 0) % 8 / 32
    if tonumber(leases[i] or 0) <= NOW + TTL.lease * (0.5 + spread)
        or redis.call('HGET', key.job(job_id), 'status') ~= 'running' then
      found[#found + 1] = job_id
    end
  end
  return found
end
