-- include: demand
-- include: job
-- Fair turns: start-time fair queueing (Goyal, Vin and Cheng, 1996) with all weights equal. A fairness key (a
-- session, a tenant) has one job in each turn at most, so a key that floods stands behind itself. All lines of
-- a pool share the turns, one set for each priority: a key gains nothing by asking for different things.
--
-- Virtual times of two pools do not compare. So jobs for a language pair stand in their lines by turns of the pair.
-- Such a job also takes a turn in each pool that serves the pair. By it, the line stands in the indexes of that pool.
--
-- Each pool and each language pair has a clock. Its sorted set, one for each priority, has the virtual time, "now",
-- each key's next turn, "of <key>", and the number of the key's jobs in line, "in <key>", after all turns.

local BAND = 281474976710656   -- 2^48: the priorities' part of a place stands above the turns'
local TURN = 1024              -- from one turn of a key to its next
local LONGEST_WAIT = 2592000000  -- ms for which a clock is kept, if jobs wait and none joins or leaves

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

-- The clock of a priority, and what it has of a fairness key.
local function read_clock(name, band, fairness)
  local set = turns_key(name, band)
  local clock = clocks[set]
  if not clock then
    clock = {keys = {}, changed = {}}
    clocks[set] = clock
  end
  if not clock.keys[fairness] then
    local found = attempt(redis.call, 'ZMSCORE', set, 'now', 'of ' .. fairness, 'in ' .. fairness) or {}
    clock.now = clock.now or tonumber(found[1] or 0)
    clock.keys[fairness] = {turn = tonumber(found[2] or 0), waiting = tonumber(found[3] or BAND) - BAND}
  end
  clock.changed[fairness] = clock.keys[fairness]
  return clock, clock.keys[fairness]
end

-- A job joins. It takes the next turn of its key, or the current turn, whichever is later. Each job that takes the
-- current turn moves the clock on by one. So such jobs keep their order, and many new keys do not stand before
-- another key's second job for ever.
local function take_turn(name, band, fairness)
  local clock, mine = read_clock(name, band, fairness)
  local turn = math.min(math.max(clock.now, mine.turn), BAND - TURN - 1)
  if clock.now == turn then clock.now = clock.now + 1 end
  mine.turn, mine.waiting = turn + TURN, mine.waiting + 1
  return turn
end

-- A job that has had its turn joins, before all others.
local function take_turn_again(name, band, fairness)
  local _, mine = read_clock(name, band, fairness)
  mine.waiting = mine.waiting + 1
  return 0
end

-- A job leaves: served in `turn`, or unserved, without one. Once no other job of its key waits, the key gives back the
-- turns that it took in vain. It gives them back no earlier: a later job must not stand before a waiting one.
local function leave_clock(name, band, fairness, turn)
  local clock, mine = read_clock(name, band, fairness)
  clock.now, clock.has_left = math.max(clock.now, turn or 0), true
  mine.waiting = math.max(0, mine.waiting - 1)
  if mine.waiting == 0 then mine.turn = turn and turn + TURN or 0 end
end

-- Writes one clock, without turns that are past. If a job has left, it also removes past turns of some other keys.
local function write_clock(set, clock)
  local written, gone = {clock.now, 'now'}, {}
  local function put(member, score, is_kept)
    if not is_kept then
      gone[#gone + 1] = member
    else
      written[#written + 1] = score
      written[#written + 1] = member
    end
  end
  for fairness, mine in pairs(clock.changed) do
    put('of ' .. fairness, mine.turn, mine.turn > clock.now)
    put('in ' .. fairness, BAND + mine.waiting, mine.waiting > 0)
  end
  redis.call('ZADD', set, unpack(written))
  if clock.has_left then
    for _, past in ipairs(redis.call('ZRANGEBYSCORE', set, '-inf', '(' .. clock.now, 'LIMIT', 0, 4)) do
      gone[#gone + 1] = past
    end
  end
  if #gone > 0 then redis.call('ZREM', set, unpack(gone)) end
  local has_jobs = not clock.has_left or tonumber(redis.call('ZRANGE', set, -1, -1, 'WITHSCORES')[2]) > BAND
  redis.call('PEXPIRE', set, has_jobs and math.max(TTL.history, LONGEST_WAIT) or TTL.history)
end

local function write_clocks()
  for set, clock in pairs(clocks) do attempt(write_clock, set, clock) end
  clocks = {}
end
