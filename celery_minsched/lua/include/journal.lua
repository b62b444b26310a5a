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
local function count(pool, what, by)
  redis.call('HINCRBY', pool == '' and key.counts() or key.pool_counts(pool), what, by or 1)
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
