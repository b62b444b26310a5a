-- What every script knows: the time, and how long things last.

-- Milliseconds of the server's clock. Never a client's: their clocks differ.
local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)

-- ARGV[1] of every script is "node_ttl lease history_ttl session_ttl", milliseconds.
local TTL = {}
do
  local node, lease, history, session = string.match(ARGV[1], '^(%d+) (%d+) (%d+) (%d+)$')
  TTL.node, TTL.lease = tonumber(node), tonumber(lease)
  TTL.history, TTL.session = tonumber(history), tonumber(session)
end
