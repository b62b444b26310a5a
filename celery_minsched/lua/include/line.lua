-- include: filing
-- Jobs in line. A job's place is computed once, when it joins: its priority, then its turn. The job's `places` are
-- its places in the pools of a language pair, as lines "pool<TAB>place".

local function line_of(job, required) return job.where .. '/' .. job.caps .. '/' .. required end

local function count_waiting(line, by)
  local where = parse_line(line)
  if add(key.waiting_counts(), where, by) <= 0 then
    redis.call('HDEL', key.waiting_counts(), where)
  end
end

-- Of many jobs that one call places most stand in few lines. So a job takes its turn at once, and all jobs of a line
-- join it together, with `join_lines`.
local function join_later(job, joining)
  -- A job that its node gives back stands before all others of its priority: it has had its turn.
  local is_given_back = job.node_id ~= '' and not job.is_requeued
  local take = is_given_back and take_turn_again or take_turn
  local function take_place(clock) return place_of(job.band, take(clock, job.band, job.fairness)) end
  -- Among equals the older job is first: ids end with a number that counts up.
  job.ticket = string.format('%015.0f', number(string.match(job.id, '%d+$'))) .. ' ' .. job.id
  job.place, job.places = take_place(clock_of(job.where)), ''
  for _, pool in ipairs(parse_where(job.where) and {} or pools_of(job.where)) do
    job.places = job.places .. pool .. '\t' .. take_place(pool) .. '\n'
  end
  if not joining[job.line] then
    joining[job.line] = {}
    table.insert(joining, joining[job.line])
  end
  table.insert(joining[job.line], job)
end

-- Has jobs of one line join it.
local function join_line(jobs)
  local line, places, tickets = jobs[1].line, {}, {}
  for _, job in ipairs(jobs) do
    places[#places + 1] = job.place
    places[#places + 1] = job.ticket
    tickets[job.ticket] = true
    local fields = {'status', 'waiting', 'line', line, 'ticket', job.ticket}
    local function also(field, value) fields[#fields + 1], fields[#fields + 2] = field, value end
    if job.places ~= '' then also('places', job.places) end
    if (job.waiting_ts or '') == '' then
      also('waiting_ts', NOW)
      tell('job_waited', 'job', job.id, 'task', job.task_id, 'line', line)
    end
    redis.call('HSET', key.job(job.id), unpack(fields))
  end
  redis.call('ZADD', key.waiting(line), unpack(places))
  count_waiting(line, #jobs)
  if redis.call('HSETNX', key.lines(), line, '') == 1 then
    file_line(line)
  elseif tickets[first_in_line(line)] then
    rank_line(line)
  end
end

local function join_lines(joining)
  write_clocks()
  for _, jobs in ipairs(joining) do join_line(jobs) end
end

local function leave_line(job)
  if redis.call('ZREM', key.waiting(job.line), job.ticket) == 1 then count_waiting(job.line, -1) end
  rank_line(job.line)
end

-- A job leaves its clocks. `pool` is the pool in which it was served, nil for none. In the clocks of other pools it
-- leaves unserved.
local function leave_clocks(job, place, pool)
  local function leave(clock, at)
    leave_clock(clock, job.band, job.fairness, at and at - job.band * BAND)
  end
  leave(clock_of(job.where), pool and place)
  for name, at in lines(job.places) do leave(name, name == pool and number(at) or nil) end
  write_clocks()
end

-- Leaves the line unserved.
local function give_up_place(job)
  leave_clocks(job)
  leave_line(job)
end
