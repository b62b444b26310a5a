-- include: place
-- The dispatch of one job. It finds the least-loaded node for the demand, takes a slot, records the job and the
-- session, and sends the message to the node's queue. If no slot is free, the job waits or is refused.

-- Limits of one call: Redis serves no other client meanwhile. Python reads MOST_JOBS here.
local MOST_JOBS = 100
local MOST_WRITES = 5000  -- to the free sets of nodes

-- Has this call reached a limit? Then the caller sends the other jobs again.
local function is_call_full()
  return index_writes > MOST_WRITES or bytes_left <= 0 or pools_read > MOST_POOLS
end

local function too_many_jobs()
  return redis.error_reply('TOO_MANY_JOBS: at most ' .. MOST_JOBS .. ' in one call; nothing was done')
end

-- The lines for which this call found no slot, and the jobs that join lines at its end. See include/place.lua.
local full_lines, joining = {}, {}
local line_lengths = {}  -- the number of jobs in each line, with those that join at the end

-- The answer to an earlier, equal call whose answer was lost on the way, or nil.
local function earlier_answer(job)
  if job.task_id == '' or job.token == '' then return nil end
  local job_id = redis.call('GET', key.task(job.task_id))
  if not job_id then return nil end
  local earlier = redis.call('HMGET', key.job(job_id), 'token', 'node_id', 'pool', 'chosen_by')
  if earlier[1] ~= job.token then return nil end
  return {'OK', earlier[2] or '', job_id, earlier[3] or '', earlier[4] or 'busy'}
end

local possible = {}  -- whether registered nodes can do it, by demand

local function is_demand_possible(pool_selector, capabilities, pools)
  local demand = pool_selector .. '/' .. capabilities
  if possible[demand] == nil then possible[demand] = is_possible(pools, split(capabilities, '[^,]+')) end
  return possible[demand]
end

-- The number of jobs in a line at the end of the call.
local function line_length(line)
  if not line_lengths[line] then line_lengths[line] = redis.call('ZCARD', key.waiting(line)) end
  return line_lengths[line]
end

-- For a job without a slot: the answer that refuses it, or nil; and why it waits.
local function refusal(job, waits)
  local pools = pools_of(job.where)
  local can_be_done = is_demand_possible(job.where, job.caps, pools)
  local answer, why
  if waits then
    why = can_be_done and 'busy' or 'impossible'
    if line_length(job.line) >= tonumber(job.max_waiting) then answer = {'BACKLOGGED', line_length(job.line)} end
  elseif #pools == 0 then
    answer = {'NO_POOL_FOR_LANG_PAIR'}
  elseif not can_be_done then
    answer = {'EMPTY_POOL', pools[1]}
  else
    answer = {'NO_AVAILABLE_NODE'}
  end
  increment_counter(can_be_done and pools[1] or '', answer and answer[1] or why)
  return answer, why
end

-- Gives the job its id, and writes its record.
local function create_job(job, payload_json)
  job.id = job.session_id .. ':' .. string.format('%.0f', next_number(key.job_id_seq()))
  local record = {'created_ts', NOW, 'payload_json', payload_json}
  for field, value in pairs(job) do
    if value ~= '' and field ~= 'id' and field ~= 'when_full' and field ~= 'max_waiting' then
      record[#record + 1] = field
      record[#record + 1] = value
    end
  end
  redis.call('HSET', key.job(job.id), unpack(record))
  if job.task_id == '' then return end
  local earlier = redis.call('SET', key.task(job.task_id), job.id, 'GET')
  if earlier then record_successor(earlier, job.id) end
end

-- Returns the answer for one job. After all jobs, `join_lines(joining)` adds the waiting ones to their lines.
local function dispatch(job, payload_json, message_head, message_tail)
  local answer = earlier_answer(job)
  if answer then return answer end
  local has_message = message_head ~= ''
  local function message() return message_head .. cjson.encode(job.id) .. message_tail end
  job.node_id = ''
  if not has_message then job.suffix = '' end  -- the caller sends it without a priority
  if has_message and tonumber(job.due_ts) > NOW then
    create_job(job, payload_json)
    redis.call('LPUSH', own_list(job), message())
    delay_job(job)
    schedule_expiry(job)
    increment_counter('', 'delayed')
    return {'OK', '', job.id, '', 'delayed'}
  end
  local node_id, pool, chosen_by = find_slot(job, full_lines)
  if node_id then
    create_job(job, payload_json)
    assign_slot(job, node_id, pool, chosen_by)
    if has_message then redis.call('LPUSH', key.node_queue(node_id), message()) end
    return {'OK', node_id, job.id, pool, chosen_by}
  end
  local refused, why = refusal(job, has_message and job.when_full == 'wait')
  if refused then return refused end
  line_lengths[job.line] = line_length(job.line) + 1
  create_job(job, payload_json)
  redis.call('LPUSH', own_list(job), message())
  join_later(job, joining)
  schedule_expiry(job)
  return {'OK', '', job.id, '', why}
end
