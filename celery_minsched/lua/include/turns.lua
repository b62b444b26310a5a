-- include: job
-- Fair turns: start-time fair queueing (Goyal, Vin and Cheng, 1996) with all weights equal. A fairness key (a
-- session, a tenant) has one job in each turn at most, so a key that floods stands behind itself. All lines of
-- a pool share the turns, one set for each priority: a key gains nothing by asking for different things.
--
-- The sorted set of a pool and a priority has the virtual time, "now", and each key's next turn, "of <key>".

local BAND = 281474976710656   -- 2^48: the priorities' part of a place stands above the turns'
local TURN = 1024              -- from one turn of a key to its next
local NO_POOL = '*'            -- no pool has this name

local clocks = {}  -- what this call has read and not yet written, by the key of the sorted set

-- The virtual time of a pool and a priority, and the next turn of a fairness key there.
local function read_clock(pool, band, fairness)
  local name = key.pool_turns(pool, band)
  local clock = clocks[name]
  if not clock then
    clock = {name = name, turns = {}, changed = {}}
    clocks[name] = clock
  end
  if not clock.turns[fairness] then
    local found = redis.call('ZMSCORE', name, 'now', 'of ' .. fairness)
    clock.now = clock.now or tonumber(found[1] or 0)
    clock.turns[fairness] = tonumber(found[2] or 0)
  end
  return clock
end

-- The turn that is now. It is a little later from now on, so that such jobs keep their order, and so that many
-- new keys do not stand before a key's second job for ever.
local function pass_now(clock)
  clock.now = clock.now + 1
  return clock.now - 1
end

-- Takes the next turn of a key, the same in all these pools. A key without a turn ahead has the turn that is now.
-- Jobs that no pool serves yet keep their order, and have the first turns of a pool that comes to serve them.
local function take_turn(pools, band, fairness)
  if #pools == 0 then return pass_now(read_clock(NO_POOL, band, '')) end
  local turn = 0
  for _, pool in ipairs(pools) do
    local clock = read_clock(pool, band, fairness)
    turn = math.max(turn, clock.now, clock.turns[fairness])
  end
  turn = math.min(turn, BAND - TURN - 1)
  for _, pool in ipairs(pools) do
    local clock = read_clock(pool, band, fairness)
    if clock.now == turn then pass_now(clock) end
    clock.turns[fairness], clock.changed[fairness] = turn + TURN, true
  end
  return turn
end

local function write_clocks()
  for _, clock in pairs(clocks) do
    local written = {clock.now, 'now'}
    for fairness in pairs(clock.changed) do
      written[#written + 1] = clock.turns[fairness]
      written[#written + 1] = 'of ' .. fairness
      if #written > 1000 then
        redis.call('ZADD', clock.name, unpack(written))
        written = {}
      end
    end
    if #written > 0 then redis.call('ZADD', clock.name, unpack(written)) end
    redis.call('PEXPIRE', clock.name, TTL.history)
  end
  clocks = {}
end

-- A job that left its line without having been served gives its turn back.
local function give_turn_back(pools, band, fairness)
  for _, pool in ipairs(pools) do
    local name = key.pool_turns(pool, band)
    if redis.call('ZSCORE', name, 'of ' .. fairness) then
      redis.call('ZINCRBY', name, -TURN, 'of ' .. fairness)
    end
  end
end

local function virtual_time(pool, band)
  return tonumber(redis.call('ZSCORE', key.pool_turns(pool, band), 'now') or 0)
end

-- A job of this turn is served: the virtual time is that turn, or later. Forgets some keys whose turns are past.
local function pass_turn(pool, band, turn)
  local name, now = key.pool_turns(pool, band), virtual_time(pool, band)
  if clocks[name] then clocks[name].now = math.max(clocks[name].now, turn) end
  if turn > now then
    redis.call('ZADD', name, turn, 'now')
    if now == 0 then redis.call('PEXPIRE', name, TTL.history) end
  end
  local past = redis.call('ZRANGEBYSCORE', name, '-inf', '(' .. math.max(now, turn), 'LIMIT', 0, 4)
  if #past > 0 then redis.call('ZREM', name, unpack(past)) end
end
