-- include: place
-- The dispatch of one job: resolves its demand to the least-loaded node with a free slot, takes the slot,
-- records the job and the session, and sends the message to the node's queue; or has it wait.

-- Limits of one call: Redis serves no other client meanwhile. Python sends no more, see celery_minsched/core/paging.py.
local MOST_JOBS = 100
local MOST_WRITES = 5000  -- to the free sets of nodes

-- Has this call done as much as one may? The caller sends the other jobs again.
local function is_enough()
  return index_writes > MOST_WRITES or bytes_left <= 0 or pools_looked > MOST_POOLS
end

local function too_many_jobs()
  return redis.error_reply('TOO_MANY_JOBS: at most ' .. MOST_JOBS .. ' in one call; nothing was done')
end

-- The lines for which this call found no slot, and the jobs that join lines at its end: see include/place.lua.
local full, joining = {}, {}
local in_line = {}  -- the number of jobs, by line, with those that join at the end

-- A call that is made again, because its answer was lost on the way, gets the same answer.
local function earlier_answer(ask)
  if ask.task_id == '' or ask.token == '' then return nil end
  local job_id = redis.call('GET', key.task(ask.task_id))
  if not job_id then return nil end
  local job = redis.call('HMGET', key.job(job_id), 'token', 'node_id', 'pool', 'chosen_by')
  if job[1] ~= ask.token then return nil end
  return {'OK', job[2] or '', job_id, job[3] or '', job[4] or 'busy'}
end

local possible = {}  -- whether registered nodes can do it, by demand

local function is_demand_possible(where, caps, pools)
  local demand = where .. '/' .. caps
  if possible[demand] == nil then possible[demand] = is_possible(pools, split(caps, '[^,]+')) end
  return possible[demand]
end

-- How many will be in a line at the end of the call.
local function count_in(line)
  if not in_line[line] then in_line[line] = redis.call('ZCARD', key.waiting(line)) end
  return in_line[line]
end

-- Why a job that finds no slot is refused, or nil; and why it waits.
local function refusal(ask, waits)
  local pools = pools_of(ask.where)
  local can_be_done = is_demand_possible(ask.where, ask.caps, pools)
  local answer, why
  if waits then
    why = can_be_done and 'busy' or 'impossible'
    if count_in(ask.line) >= tonumber(ask.max_waiting) then answer = {'BACKLOGGED', count_in(ask.line)} end
  elseif #pools == 0 then
    answer = {'NO_POOL_FOR_LANG_PAIR'}
  elseif not can_be_done then
    answer = {'EMPTY_POOL', pools[1]}
  else
    answer = {'NO_AVAILABLE_NODE'}
  end
  count(can_be_done and pools[1] or '', answer and answer[1] or why)
  return answer, why
end

-- Gives the job its id, and opens its record.
local function open_job(job, payload)
  job.id = job.session_id .. ':' .. string.format('%.0f', next_number(key.job_id_seq()))
  local record = {'created_ts', NOW, 'payload_json', payload}
  for field, value in pairs(job) do
    if value ~= '' and field ~= 'id' and field ~= 'when_full' and field ~= 'max_waiting' then
      record[#record + 1] = field
      record[#record + 1] = value
    end
  end
  redis.call('HSET', key.job(job.id), unpack(record))
  if job.task_id == '' then return end
  local earlier = redis.call('SET', key.task(job.task_id), job.id, 'GET')
  if earlier then note_successor(earlier, job.id) end
end

-- It joins its line with `join_lines(joining)`, when all are dispatched.
local function dispatch(ask, payload, head, tail)
  local answer = earlier_answer(ask)
  if answer then return answer end
  local has_message = head ~= ''
  local function message() return head .. cjson.encode(ask.id) .. tail end
  ask.node_id = ''
  if not has_message then ask.suffix = '' end  -- its caller sends it without a priority
  if has_message and tonumber(ask.due_ts) > NOW then
    open_job(ask, payload)
    redis.call('LPUSH', parked_list(ask), message())
    delay(ask)
    watch_expiry(ask)
    count('', 'delayed')
    return {'OK', '', ask.id, '', 'delayed'}
  end
  local node_id, pool, chosen_by = find_slot(ask, full)
  if node_id then
    open_job(ask, payload)
    give_slot(ask, node_id, pool, chosen_by)
    if has_message then redis.call('LPUSH', key.node_queue(node_id), message()) end
    return {'OK', node_id, ask.id, pool, chosen_by}
  end
  local refused, why = refusal(ask, has_message and ask.when_full == 'wait')
  if refused then return refused end
  in_line[ask.line] = count_in(ask.line) + 1
  open_job(ask, payload)
  redis.call('LPUSH', parked_list(ask), message())
  join_later(ask, joining)
  watch_expiry(ask)
  return {'OK', '', ask.id, '', why}
end
