-- include: context
-- A bounded stream of events, and counters. No script reads them. They never make a script fail: if Redis cannot add to
-- a stream or a counter, because another program has written the key, the stream or counter starts again.

local MOST_EVENTS = 10000  -- approximately: Redis trims a stream by whole nodes of its tree

-- Upper bounds of the wait time histogram, ms. Python reads them here.
local WAIT_BUCKETS = {10, 100, 500, 1000, 5000, 10000, 30000, 60000, 300000, 1800000}

-- ms. An event id that is further in the future is unusable: Redis gives each later event a higher id. Python reads
-- it here.
local MOST_AHEAD = 86400000

-- Did Redis refuse the command because of the value of its key?
local function is_unusable(answer)
  if type(answer) ~= 'table' then return false end
  for _, fault in ipairs({'WRONGTYPE', 'last possible ID', 'not an integer', 'would overflow'}) do
    if string.find(answer.err, fault, 1, true) then return true end
  end
  return false
end

-- Adds an event: its kind, then fields and values.
local function emit_event(kind, ...)
  local id = redis.pcall('XADD', key.events(), 'MAXLEN', '~', MOST_EVENTS, '*', 'kind', kind, ...)
  local is_ahead = type(id) == 'string' and tonumber(string.match(id, '^%d+')) > NOW + MOST_AHEAD
  if is_ahead or is_unusable(id) then
    redis.pcall('DEL', key.events())
    redis.pcall('XADD', key.events(), '*', 'kind', kind, ...)
  end
end

-- Adds to a number in a hash, and returns the sum. If Redis cannot add to the field, the field starts again.
local function increment_field(hash, field, by)
  local sum = redis.pcall('HINCRBY', hash, field, by)
  if not is_unusable(sum) then return sum end
  if string.find(sum.err, 'WRONGTYPE', 1, true) then redis.call('DEL', hash) end
  redis.call('HSET', hash, field, by)
  return by
end

-- Adds to a counter of a pool, or of the fleet if `pool` is "". The counters of a pool without nodes expire. A job that
-- ends later may start them again.
local function increment_counter(pool, name, by)
  local counts = pool == '' and key.counts() or key.pool_counts(pool)
  local is_new = increment_field(counts, name, by or 1) == (by or 1)
  if is_new and pool ~= '' and redis.call('SISMEMBER', key.pools(), pool) == 0 then
    redis.call('PEXPIRE', counts, TTL.history)
  end
end

-- Counts a job that waited and got a slot of the pool by this rule. Usually the counters are there already, and two
-- commands count it.
local function count_assignment(pool, chosen_by, milliseconds)
  local limit = 'inf'
  for _, bound in ipairs(WAIT_BUCKETS) do
    if milliseconds <= bound then
      limit = bound
      break
    end
  end
  local bucket = 'waited:' .. limit
  local counts = attempt(redis.call, 'HMGET', key.pool_counts(pool), chosen_by, bucket, 'waited_ms') or {}
  if number(counts[1]) > 0 and number(counts[2]) > 0 and number(counts[3]) > 0 then
    redis.call('HSET', key.pool_counts(pool), chosen_by, counts[1] + 1, bucket, counts[2] + 1,
      'waited_ms', counts[3] + milliseconds)
    return
  end
  increment_counter(pool, chosen_by)
  increment_counter(pool, bucket)
  increment_counter(pool, 'waited_ms', milliseconds)
end
