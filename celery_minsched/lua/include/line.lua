-- include: line_index
-- How jobs join and leave lines. A job's place is computed once, when it joins: its priority, then its virtual time.
-- The field `places` has a job's places in the pools of its language pair, as lines "pool<TAB>place".

local function adjust_waiting_count(line, by)
  local pool_selector = parse_line(line)
  if increment_field(key.waiting_counts(), pool_selector, by) <= 0 then
    redis.call('HDEL', key.waiting_counts(), pool_selector)
  end
end

-- Computes the job's place, and adds the job to `joining`. If one call places many jobs, most jobs are in few
-- lines, and all jobs of a line join it together in `join_lines`.
local function join_later(job, joining)
  -- A job that its node gives back was served before. It is before all others of its priority.
  local is_given_back = job.node_id ~= '' and not job.is_requeued
  local join = is_given_back and rejoin_clock or join_clock
  local function place_by(clock) return to_place(job.band, join(clock, job.band, job.fairness)) end
  -- Ids end with a number that grows. So of two jobs with the same place, the older one is first.
  job.ticket = string.format('%015.0f', number(string.match(job.id, '%d+$'))) .. ' ' .. job.id
  job.place, job.places = place_by(clock_name(job.where)), ''
  for _, pool in ipairs(parse_selector(job.where) and {} or pools_of(job.where)) do
    job.places = job.places .. pool .. '\t' .. place_by(pool) .. '\n'
  end
  if not joining[job.line] then
    joining[job.line] = {}
    table.insert(joining, joining[job.line])
  end
  table.insert(joining[job.line], job)
end

-- Adds jobs of one line to it.
local function join_line(jobs)
  local line, places, queue_entries = jobs[1].line, {}, {}
  for _, job in ipairs(jobs) do
    places[#places + 1] = job.place
    places[#places + 1] = job.ticket
    queue_entries[job.ticket] = true
    local fields = {'status', 'waiting', 'line', line, 'ticket', job.ticket}
    local function set(field, value) fields[#fields + 1], fields[#fields + 2] = field, value end
    if job.places ~= '' then set('places', job.places) end
    if (job.waiting_ts or '') == '' then
      set('waiting_ts', NOW)
      emit_event('job_waited', 'job', job.id, 'task', job.task_id, 'line', line)
    end
    redis.call('HSET', key.job(job.id), unpack(fields))
  end
  redis.call('ZADD', key.waiting(line), unpack(places))
  adjust_waiting_count(line, #jobs)
  if redis.call('HSETNX', key.lines(), line, '') == 1 then
    index_line(line)
  elseif queue_entries[first_in_line(line)] then
    update_line(line)
  end
end

local function join_lines(joining)
  write_clocks()
  for _, jobs in ipairs(joining) do join_line(jobs) end
end

-- The job leaves its line. If the caller knows them, `index` is the only index of the line, and `next_place` is the
-- place of the line's next job.
local function leave_line(job, index, next_place)
  if redis.call('ZREM', key.waiting(job.line), job.ticket) == 1 then adjust_waiting_count(job.line, -1) end
  if next_place then
    redis.call('ZADD', index, 'XX', next_place, job.line)
  else
    update_line(job.line)
  end
end

-- The job leaves its clocks: served in `pool`, or unserved if that is nil. In the clocks of other pools it leaves
-- unserved.
local function leave_clocks(job, place, pool)
  local function leave(clock, at)
    leave_clock(clock, job.band, job.fairness, at and at - job.band * PRIORITY_UNIT)
  end
  leave(clock_name(job.where), pool and place)
  for name, at in each_pair(job.places) do leave(name, name == pool and number(at) or nil) end
  write_clocks()
end

-- The job leaves its line unserved.
local function abandon_place(job)
  leave_clocks(job)
  leave_line(job)
end
