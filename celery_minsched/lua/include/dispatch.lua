-- include: dispatch_at_once
-- include: place
-- The dispatch of any job. If no slot is free, the job waits or is refused.

-- The lines for which this call found no slot, and the jobs that join lines at its end. See include/place.lua.
local full_lines, joining = {}, {}
local line_lengths = {}  -- the number of jobs in each line, with those that join at the end

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

-- Returns the answer for one job. After all jobs, `join_lines(joining)` adds the waiting ones to their lines.
local function dispatch(job, payload_json, message_head, message_tail)
  local answer = earlier_answer(job)
  if answer then return answer end
  local has_message = message_head ~= ''
  job.node_id = ''
  local is_delayed = has_message and tonumber(job.due_ts) > NOW
  if not is_delayed then
    local node, pool, chosen_by = find_slot(job, full_lines)
    if node then return dispatch_to_chosen(job, node, pool, chosen_by, payload_json, message_head, message_tail) end
  end
  local refused, why
  if not is_delayed then refused, why = refusal(job, has_message and job.when_full == 'wait') end
  if refused then return refused end
  local record = create_job(job, payload_json, message_head, is_delayed and 'delayed' or 'waiting')
  redis.call('HSET', key.job(job.id), unpack(record))
  redis.call('LPUSH', own_list(job), message_head .. cjson.encode(job.id) .. message_tail)
  schedule_expiry(job)
  if is_delayed then
    delay_job(job)
    increment_counter('', 'delayed')
    return {'OK', '', job.id, '', 'delayed'}
  end
  line_lengths[job.line] = line_length(job.line) + 1
  join_later(job, joining)
  return {'OK', '', job.id, '', why}
end
