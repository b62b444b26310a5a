-- What every script knows: the time, and how long things last.

-- Milliseconds of the server's clock. Never a client's: their clocks differ.
local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)

-- The fleet's times: "node_ttl lease history_ttl session_ttl", milliseconds, and max_rescues. ARGV[1] of
-- every script has those of its caller, which count until a node has registered.
local TTL = {}
local MAX_RESCUES
do
  local node, lease, history, session, rescues =
    string.match(redis.call('GET', key.times()) or ARGV[1], '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
  TTL.node, TTL.lease = tonumber(node), tonumber(lease)
  TTL.history, TTL.session = tonumber(history), tonumber(session)
  MAX_RESCUES = tonumber(rescues)
end

-- Redis without memory refuses a script at its first write, if that write may grow the data
-- (scriptVerifyOOM in Redis 7; the same in 6.2 and Valkey 9). It refuses no later write of the script. A
-- script that ends jobs, moves them, or changes a node begins with a write that cannot grow.
local function write_even_without_memory() redis.call('PERSIST', key.nodes()) end

-- A stored time lies so many milliseconds in the future at most. If it lies further, the clock was set back
-- since, or another server with a slower clock has taken over.
local function clamp(stored, ahead) return math.min(tonumber(stored or 0), NOW + (ahead or 0)) end
