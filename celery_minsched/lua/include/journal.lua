-- include: context
-- What happened, for those who watch: a bounded stream of events, and counts. No script reads either.

local MOST_EVENTS = 10000  -- about: Redis trims its stream by whole nodes of it

-- Wait times are counted below each of these, ms; celery_minsched/metrics.py has the same ones.
local WAITED = {10, 100, 500, 1000, 5000, 10000, 30000, 60000, 300000, 1800000}

-- An event: its kind, then fields and values.
local function tell(kind, ...)
  redis.call('XADD', key.events(), 'MAXLEN', '~', MOST_EVENTS, '*', 'kind', kind, ...)
end

-- Counts by pool end with the pool; what is of no pool is counted for the fleet.
-- The counters of a pool without nodes lapse, and may be begun anew by a job that ends later.
local function count(pool, what, by)
  local counts = pool == '' and key.counts() or key.pool_counts(pool)
  local is_new = redis.call('HINCRBY', counts, what, by or 1) == (by or 1)
  if is_new and pool ~= '' and redis.call('SISMEMBER', key.pools(), pool) == 0 then
    redis.call('PEXPIRE', counts, TTL.history)
  end
end

local function count_wait(pool, milliseconds)
  local limit = 'inf'
  for _, bound in ipairs(WAITED) do
    if milliseconds <= bound then
      limit = bound
      break
    end
  end
  count(pool, 'waited:' .. limit)
  count(pool, 'waited_ms', milliseconds)
end
