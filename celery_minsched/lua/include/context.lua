-- What every script knows: the time, and how long things last.

-- Milliseconds of the server's clock. Never a client's: their clocks differ.
local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)

-- The fleet's times: "node_ttl lease history_ttl session_ttl", milliseconds, and max_rescues. ARGV[1] of
-- every script has those of its caller, which count until a node has registered, and while the fleet's are
-- unreadable.
local function read_times(text)
  local times = type(text) == 'string' and {string.match(text, '^(%d+) (%d+) (%d+) (%d+) (%d+)$')} or {}
  for i = 1, 5 do
    if not times[i] or #times[i] > 15 then return nil end
    times[i] = tonumber(times[i])
  end
  return times
end
local times_of_fleet = read_times(redis.pcall('GET', key.times()))
local TTL = {}
local MAX_RESCUES
TTL.node, TTL.lease, TTL.history, TTL.session, MAX_RESCUES = unpack(times_of_fleet or read_times(ARGV[1]))

-- The number that a field of a record holds, 0 if the field is missing or is no number. Any program with access to
-- the key may have written the field, and a broken record of one node or job must not stop others.
local function number(stored)
  local value = tonumber(stored)
  return value and math.abs(value) <= 9007199254740992 and value or 0
end

-- Does a step about one node, job or line, and returns its two answers. A program may have put a key of another
-- type in place of one of that node's: then the step ends with nil, and no other step. `check` names the key.
local function attempt(step, ...)
  local is_done, answer, more = pcall(step, ...)
  if is_done then return answer, more end
  local fault = type(answer) == 'table' and answer.err or tostring(answer)
  if not string.find(fault, 'WRONGTYPE', 1, true) then error(answer, 0) end
end

-- The next number of a counter. It begins anew if it holds none, with a number above all that it ever had.
local function next_number(counter)
  local value = redis.pcall('INCR', counter)
  if type(value) ~= 'number' or number(value) <= 0 then
    value = NOW * 1000
    redis.call('SET', counter, value)
  end
  return value
end

-- Redis without memory refuses a script at its first write, if that write may grow the data
-- (scriptVerifyOOM in Redis 7; the same in 6.2 and Valkey 9). It refuses no later write of the script. A
-- script that ends jobs, moves them, or changes a node begins with a write that cannot grow.
local function write_even_without_memory() redis.call('PERSIST', key.nodes()) end

-- A stored time lies so many milliseconds in the future at most. If it lies further, the clock was set back
-- since, or another server with a slower clock has taken over.
local function clamp(stored, ahead) return math.min(number(stored), NOW + (ahead or 0)) end
