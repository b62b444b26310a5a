-- include: context
-- The records of a pool as a whole: its name, its counters, and whether it is paused.

-- The paused pools that lost their last node in this call.
local left_paused = {}

-- The pool has lost its last node. Its counters expire, and it is no longer paused. A silent node stays in its pools
-- for as long as Redis keeps its record.
local function close_pool(pool)
  redis.call('SREM', key.pools(), pool)
  redis.call('PEXPIRE', key.pool_counts(pool), TTL.history)
  if redis.call('SREM', key.paused(), pool) == 1 then left_paused[pool] = true end
end

-- The pool has a node. A node that registers again leaves its pools and enters them in one call, so a paused pool stays
-- paused.
local function open_pool(pool)
  redis.call('SADD', key.pools(), pool)
  redis.call('PERSIST', key.pool_counts(pool))
  if left_paused[pool] then redis.call('SADD', key.paused(), pool) end
end
