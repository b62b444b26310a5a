-- include: demand
-- include: job
-- Start-time fair queueing (Goyal, Vin and Cheng, 1996) with equal weights. Each job gets a virtual time when it joins
-- a line, and jobs with a smaller virtual time go first. The virtual times of one fairness key (a session, a tenant)
-- are VIRTUAL_STEP apart, so a key that sends many jobs waits behind its own jobs. All lines of a pool share virtual
-- time, separately for each priority. So a key gains nothing by asking for different things.
--
-- Virtual times of two pools cannot be compared. So jobs for a language pair are sorted in their lines by the virtual
-- time of the pair. Such a job also gets a virtual time in each pool that serves the pair, for the indexes of that pool.
--
-- Each pool and each language pair has a clock. For each priority, the clock is a sorted set with these members:
--   "now"       the virtual time
--   "of <key>"  the virtual time of the key's next job
--   "in <key>"  the number of the key's jobs in line, plus PRIORITY_UNIT, so that it is above all virtual times

local PRIORITY_UNIT = 281474976710656  -- 2^48: in a place, the priority counts more than the virtual time
local VIRTUAL_STEP = 1024
local LONGEST_WAIT = 2592000000        -- ms for which Redis keeps a clock if jobs wait and none joins or leaves

local clocks = {}  -- clocks that this call has read and not yet written, by their keys

local function clock_key(name, priority_step)
  return string.find(name, ':', 1, true) and key.lang_turns(name, priority_step) or key.pool_turns(name, priority_step)
end

-- The name of the clock by which jobs are sorted in their lines: a pool or a language pair.
local function clock_name(pool_selector)
  local pool, language_pairs = parse_selector(pool_selector)
  return pool or language_pairs[1]
end

-- A job's place in a line or an index. Redis compares it as a number.
local function to_place(priority_step, virtual_time)
  return string.format('%.0f', priority_step * PRIORITY_UNIT + virtual_time)
end

-- The clock of a priority, and its entry for a fairness key.
local function read_clock(name, priority_step, fairness_key)
  local set = clock_key(name, priority_step)
  local clock = clocks[set]
  if not clock then
    clock = {keys = {}, changed = {}}
    clocks[set] = clock
  end
  if not clock.keys[fairness_key] then
    local scores = attempt(redis.call, 'ZMSCORE', set, 'now', 'of ' .. fairness_key, 'in ' .. fairness_key) or {}
    clock.now = clock.now or tonumber(scores[1] or 0)
    clock.keys[fairness_key] = {
      next_time = tonumber(scores[2] or 0), waiting = tonumber(scores[3] or PRIORITY_UNIT) - PRIORITY_UNIT}
  end
  clock.changed[fairness_key] = clock.keys[fairness_key]
  return clock, clock.keys[fairness_key]
end

-- A job joins a line. Returns its virtual time: the next one of its key, or the current one, whichever is later. Each
-- job that gets the current time advances the clock by one. So such jobs keep their order, and a stream of new keys does
-- not delay another key's second job for ever.
local function join_clock(name, priority_step, fairness_key)
  local clock, entry = read_clock(name, priority_step, fairness_key)
  local virtual_time = math.min(math.max(clock.now, entry.next_time), PRIORITY_UNIT - VIRTUAL_STEP - 1)
  if clock.now == virtual_time then clock.now = clock.now + 1 end
  entry.next_time, entry.waiting = virtual_time + VIRTUAL_STEP, entry.waiting + 1
  return virtual_time
end

-- A job that was served before joins again, before all others.
local function rejoin_clock(name, priority_step, fairness_key)
  local _, entry = read_clock(name, priority_step, fairness_key)
  entry.waiting = entry.waiting + 1
  return 0
end

-- A job leaves. `virtual_time` is nil if the job was not served. When no other job of its key waits, the key gives back
-- the virtual times of its unserved jobs. It does not give them back earlier, because a later job must not overtake a
-- waiting job of the key.
local function leave_clock(name, priority_step, fairness_key, virtual_time)
  local clock, entry = read_clock(name, priority_step, fairness_key)
  clock.now, clock.has_left = math.max(clock.now, virtual_time or 0), true
  entry.waiting = math.max(0, entry.waiting - 1)
  if entry.waiting == 0 then entry.next_time = virtual_time and virtual_time + VIRTUAL_STEP or 0 end
end

-- Writes one clock, without virtual times that are past. If a key's last job has left, also removes past times of some
-- other keys. Each key that stays behind so goes with a later one.
local function write_clock(set, clock)
  local written, removed = {clock.now, 'now'}, {}
  local function put(member, score, is_kept)
    if not is_kept then
      removed[#removed + 1] = member
    else
      written[#written + 1] = score
      written[#written + 1] = member
    end
  end
  local has_jobs = not clock.has_left
  for fairness_key, entry in pairs(clock.changed) do
    has_jobs = has_jobs or entry.waiting > 0
    put('of ' .. fairness_key, entry.next_time, entry.next_time > clock.now)
    put('in ' .. fairness_key, PRIORITY_UNIT + entry.waiting, entry.waiting > 0)
  end
  redis.call('ZADD', set, unpack(written))
  if not has_jobs then
    for _, past in ipairs(redis.call('ZRANGEBYSCORE', set, '-inf', '(' .. clock.now, 'LIMIT', 0, 4)) do
      removed[#removed + 1] = past
    end
  end
  if #removed > 0 then redis.call('ZREM', set, unpack(removed)) end
  has_jobs = has_jobs or tonumber(redis.call('ZRANGE', set, -1, -1, 'WITHSCORES')[2]) > PRIORITY_UNIT
  redis.call('PEXPIRE', set, has_jobs and math.max(TTL.history, LONGEST_WAIT) or TTL.history)
end

local function write_clocks()
  for set, clock in pairs(clocks) do attempt(write_clock, set, clock) end
  clocks = {}
end
