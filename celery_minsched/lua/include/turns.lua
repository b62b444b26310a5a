-- include: demand
-- include: job
-- Fair turns: start-time fair queueing (Goyal, Vin and Cheng, 1996) with all weights equal. A fairness key (a
-- session, a tenant) has one job in each turn at most, so a key that floods stands behind itself. All lines of
-- a pool share the turns, one set for each priority: a key gains nothing by asking for different things.
--
-- Virtual times of two pools do not compare. So jobs for a language pair stand in their lines by turns of the pair,
-- and such a job takes a turn of its own in each pool that serves the pair, by which its line stands in the
-- indexes of that pool.
--
-- A clock is a pool or a language pair. Its sorted set, one for each priority, has the virtual time, "now", and
-- each key's next turn, "of <key>".

local BAND = 281474976710656   -- 2^48: the priorities' part of a place stands above the turns'
local TURN = 1024              -- from one turn of a key to its next

local clocks = {}  -- what this call has read and not yet written, by the key of the sorted set

local function turns_key(name, band)
  return string.find(name, ':', 1, true) and key.lang_turns(name, band) or key.pool_turns(name, band)
end

-- The clock by which jobs of a demand stand in their lines.
local function clock_of(where)
  local pool, langs = parse_where(where)
  return pool or langs[1]
end

-- A place in a line or an index. Redis compares it as a number.
local function place_of(band, turn) return string.format('%.0f', band * BAND + turn) end

-- The virtual time of a clock and a priority, and the next turn of a fairness key there.
local function read_clock(name, band, fairness)
  local set = turns_key(name, band)
  local clock = clocks[set]
  if not clock then
    clock = {turns = {}, changed = {}}
    clocks[set] = clock
  end
  if not clock.turns[fairness] then
    local found = redis.call('ZMSCORE', set, 'now', 'of ' .. fairness)
    clock.now = clock.now or tonumber(found[1] or 0)
    clock.turns[fairness] = tonumber(found[2] or 0)
  end
  return clock
end

-- Takes the next turn of a key. A key without a turn ahead has the turn that is now. That is a little later from
-- now on, so that such jobs keep their order, and so that many new keys do not stand before a key's second job for
-- ever.
local function take_turn(name, band, fairness)
  local clock = read_clock(name, band, fairness)
  local turn = math.min(math.max(clock.now, clock.turns[fairness]), BAND - TURN - 1)
  if clock.now == turn then clock.now = clock.now + 1 end
  clock.turns[fairness], clock.changed[fairness] = turn + TURN, true
  return turn
end

local function write_clocks()
  for set, clock in pairs(clocks) do
    local written = {clock.now, 'now'}
    for fairness in pairs(clock.changed) do
      written[#written + 1] = clock.turns[fairness]
      written[#written + 1] = 'of ' .. fairness
      if #written > 1000 then
        redis.call('ZADD', set, unpack(written))
        written = {}
      end
    end
    if #written > 0 then redis.call('ZADD', set, unpack(written)) end
    redis.call('PEXPIRE', set, TTL.history)
  end
  clocks = {}
end

-- A job that was not served by this clock gives its turn back.
local function give_turn_back(name, band, fairness)
  local set = turns_key(name, band)
  local clock = clocks[set]
  if clock and clock.turns[fairness] then
    clock.turns[fairness], clock.changed[fairness] = clock.turns[fairness] - TURN, true
  elseif redis.call('ZSCORE', set, 'of ' .. fairness) then
    redis.call('ZINCRBY', set, -TURN, 'of ' .. fairness)
  end
end

-- A job of this place is served: the virtual time is its turn, or later. Forgets some keys whose turns are past.
local function pass_turn(name, band, place)
  local set, turn = turns_key(name, band), place - band * BAND
  local now = tonumber(redis.call('ZSCORE', set, 'now') or 0)
  if clocks[set] then clocks[set].now = math.max(clocks[set].now, turn) end
  if turn > now then
    redis.call('ZADD', set, turn, 'now')
    if now == 0 then redis.call('PEXPIRE', set, TTL.history) end
  end
  local past = redis.call('ZRANGEBYSCORE', set, '-inf', '(' .. math.max(now, turn), 'LIMIT', 0, 4)
  if #past > 0 then redis.call('ZREM', set, unpack(past)) end
end
