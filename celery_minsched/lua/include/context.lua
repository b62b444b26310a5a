-- The time, and functions that every script may need.

-- Milliseconds of the server's clock. The clocks of clients differ.
local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)

-- Parses the fleet's times: "node_ttl lease history_ttl session_ttl max_rescues". The first four are milliseconds. The
-- argument `times` of every script has the caller's times. They count until a node has registered, and while the
-- fleet's times are unreadable.
local function read_times(text)
  if type(text) ~= 'string' then return nil end
  local node, lease, history, session, rescues = string.match(text, '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
  if not node or math.max(#node, #lease, #history, #session, #rescues) > 15 then return nil end
  return {node = node + 0, lease = lease + 0, history = history + 0, session = session + 0, rescues = rescues + 0}
end
local times_of_fleet = read_times(redis.pcall('GET', key.times()))
local TTL = times_of_fleet or read_times(ARGV.times)

-- The number in a field of a record, 0 if the field is missing or is no number. Another program may have written the
-- field. A broken record of one node or job must not stop the others.
local function number(stored)
  local value = tonumber(stored)
  return value and math.abs(value) <= 9007199254740992 and value or 0
end

-- Runs a step for one node, job or line, and returns its first two results. If a key has a wrong type, only this step
-- fails, with nil. `check` reports such a key.
local function attempt(step, ...)
  local is_done, answer, more = pcall(step, ...)
  if is_done then return answer, more end
  local fault = type(answer) == 'table' and answer.err or tostring(answer)
  if not string.find(fault, 'WRONGTYPE', 1, true) then error(answer, 0) end
end

-- The next number of a counter. If the key holds no number, the counter starts again above all earlier numbers.
local function next_number(counter)
  local value = redis.pcall('INCR', counter)
  if type(value) ~= 'number' or number(value) <= 0 then
    value = NOW * 1000
    redis.call('SET', counter, value)
  end
  return value
end

-- Makes a first write that cannot grow the data. If Redis has no memory, it refuses a script only at its first write
-- (scriptVerifyOOM in Redis 7; the same in 6.2 and Valkey 9). A script that ends or moves jobs, or changes a
-- node, calls this before any other write.
local function write_even_without_memory() redis.call('PERSIST', key.nodes()) end

-- Has Redis memory left? Only the first write of a script shows it, so no other write may stand before the call.
local function has_memory()
  local answer = redis.pcall('ZADD', key.nodes(), 'XX', 0, '')  -- changes nothing: no node has an empty id
  return type(answer) == 'number'
end

-- A stored time, at most `ahead` milliseconds in the future. A later time shows that the clock was set back, or that
-- another server with a slower clock has taken over.
local function clamp(stored, ahead) return math.min(number(stored), NOW + (ahead or 0)) end
