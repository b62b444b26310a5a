-- include: line
-- Resolves a demand to the least-loaded node with a free slot, takes the slot, records the job and
-- the session. Where no slot is free, or it is not yet time: refuses, or opens a job without a node,
-- whose message the caller sends to the job's own list and then calls place_job.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] JSON object of strings: the fields of a job that celery_minsched/scheduler.py gives it
--         (where, caps: see include/demand.lua), and
--         when_full    "error" or "wait"
--         max_waiting  the most jobs in a line
-- ARGV[3] payload_json, stored and not read
--
-- Returns {"OK", node_id, job_id, pool, chosen_by}
--         {"OK", "", job_id, "", "delayed"}      until its due_ts
--         {"OK", "", job_id, "", "busy"}         all nodes that can do it are full
--         {"OK", "", job_id, "", "impossible"}   no registered node can do it
--         {"NO_POOL_FOR_LANG_PAIR"}              no pool, or not the one named, serves the pair
--         {"EMPTY_POOL", pool}                   no node of the pool has what is asked for
--         {"NO_AVAILABLE_NODE"}                  those that have it are full, draining or offline
--         {"BACKLOGGED", jobs in line}

local ask = cjson.decode(ARGV[2])

-- A call that is made again, because its answer was lost on the way, gets the same answer.
if ask.task_id ~= '' and ask.token ~= '' then
  local earlier = redis.call('GET', key.task(ask.task_id))
  if earlier then
    local job = redis.call('HMGET', key.job(earlier), 'token', 'node_id', 'pool', 'chosen_by')
    if job[1] == ask.token then
      return {'OK', job[2] or '', earlier, job[3] or '', job[4] or 'busy'}
    end
  end
end

local caps, session, pools = split(ask.caps, '[^,]+'), read_session(ask.session_id), pools_of(ask.where)
local is_due = tonumber(ask.due_ts) <= NOW
local node_id, pool, chosen_by
if is_due then
  local required = required_node(ask, session, pools, caps)
  node_id, pool, chosen_by = choose_node(ask, session, pools, caps, required)
  if not node_id then
    local possible = is_possible(pools, caps)
    local function refuse(code, ...)
      count(possible and pools[1] or '', code)
      return {code, ...}
    end
    if ask.when_full == 'error' then
      if #pools == 0 then return refuse('NO_POOL_FOR_LANG_PAIR') end
      if not possible then return refuse('EMPTY_POOL', pools[1]) end
      return refuse('NO_AVAILABLE_NODE')
    end
    ask.line = line_of(ask, required)
    local in_line = redis.call('ZCARD', key.waiting(ask.line)) + redis.call('SCARD', key.line_coming(ask.line))
    if in_line >= tonumber(ask.max_waiting) then return refuse('BACKLOGGED', in_line) end
    chosen_by = possible and 'busy' or 'impossible'
    count(possible and pools[1] or '', chosen_by)
  end
end

local number = redis.call('INCR', key.job_id_seq())
local job = ask
if node_id then job.suffix = '' end  -- its message has no priority, see celery_minsched/publish.py
job.id = ask.session_id .. ':' .. string.format('%.0f', number)
for _, field in ipairs({'when_full', 'max_waiting'}) do job[field] = nil end
local record = {'status', is_due and 'parking' or 'delayed', 'created_ts', NOW, 'payload_json', ARGV[3]}
for field, value in pairs(job) do
  if value ~= '' and field ~= 'id' then
    record[#record + 1] = field
    record[#record + 1] = value
  end
end
redis.call('HSET', key.job(job.id), unpack(record))
if job.task_id ~= '' then redis.call('SET', key.task(job.task_id), job.id) end

if node_id then
  give_slot(job, node_id, pool, chosen_by)
  return {'OK', node_id, job.id, pool, chosen_by}
end
if is_due then
  redis.call('ZADD', key.parking(), NOW, job.id)
  redis.call('SADD', key.line_coming(job.line), job.id)
else
  redis.call('ZADD', key.delayed(), job.due_ts, job.id)
  chosen_by = 'delayed'
  count('', chosen_by)
end
keep_record(job)
return {'OK', '', job.id, '', chosen_by}
