-- include: context
-- Which leases of a node's jobs to renew.

-- Of these jobs, the ones whose lease needs renewal, and the ones that are not recorded as running at this node. A
-- lease is renewed at half of its length or a little later. So a heartbeat writes only some leases, and jobs that began
-- together are not all renewed together.
local function jobs_to_confirm(node_id, job_ids)
  local unconfirmed = {}
  if #job_ids == 0 then return unconfirmed end
  local leases = redis.call('ZMSCORE', key.node_jobs(node_id), unpack(job_ids))
  for i, job_id in ipairs(job_ids) do
    local spread = tonumber(string.match(job_id, '%d+$') or 0) % 8 / 32
    if tonumber(leases[i] or 0) <= NOW + TTL.lease * (0.5 + spread)
        or redis.call('HGET', key.job(job_id), 'status') ~= 'running' then
      unconfirmed[#unconfirmed + 1] = job_id
    end
  end
  return unconfirmed
end
