-- include: context
-- What happened: a bounded stream of events, and counters. No script reads them, and neither fails a script: a stream
-- or a counter that another program has written, and to which Redis cannot add, begins anew.

local MOST_EVENTS = 10000  -- about: Redis trims its stream by whole nodes of it

-- Wait times are counted below each of these, ms; celery_minsched/monitor/metrics.py has the same ones.
local WAITED = {10, 100, 500, 1000, 5000, 10000, 30000, 60000, 300000, 1800000}

-- ms by which the id of an event lies in the future at most, after the clock was set back. Redis gives each event
-- a higher id than the last one, so an id beyond makes the times of all later events wrong.
local MOST_AHEAD = 86400000

-- Has Redis refused the command for what its key holds?
local function is_unusable(answer)
  if type(answer) ~= 'table' then return false end
  for _, fault in ipairs({'WRONGTYPE', 'last possible ID', 'not an integer', 'would overflow'}) do
    if string.find(answer.err, fault, 1, true) then return true end
  end
  return false
end

-- An event: its kind, then fields and values. A stream that takes no more, or has a last id in the far future,
-- begins anew.
local function tell(kind, ...)
  local id = redis.pcall('XADD', key.events(), 'MAXLEN', '~', MOST_EVENTS, '*', 'kind', kind, ...)
  local is_ahead = type(id) == 'string' and tonumber(string.match(id, '^%d+')) > NOW + MOST_AHEAD
  if is_ahead or is_unusable(id) then
    redis.pcall('DEL', key.events())
    redis.pcall('XADD', key.events(), '*', 'kind', kind, ...)
  end
end

-- Adds to a number in a hash, and returns the sum. If Redis cannot add to the field, the field begins anew.
local function add(hash, field, by)
  local sum = redis.pcall('HINCRBY', hash, field, by)
  if not is_unusable(sum) then return sum end
  if string.find(sum.err, 'WRONGTYPE', 1, true) then redis.call('DEL', hash) end
  redis.call('HSET', hash, field, by)
  return by
end

-- Counts by pool end with the pool; what is of no pool is counted for the fleet.
-- The counters of a pool without nodes lapse, and may be begun anew by a job that ends later.
local function count(pool, what, by)
  local counts = pool == '' and key.counts() or key.pool_counts(pool)
  local is_new = add(counts, what, by or 1) == (by or 1)
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
