-- include: job
-- include: node_choice
-- The dispatch of a job to a node with a free slot.

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

-- The answer to an earlier, equal call whose answer was lost on the way, or nil.
local function earlier_answer(job)
  if job.task_id == '' or job.token == '' then return nil end
  local job_id = redis.call('GET', key.task(job.task_id))
  if not job_id then return nil end
  local earlier = redis.call('HMGET', key.job(job_id), 'token', 'node_id', 'pool', 'chosen_by')
  if earlier[1] ~= job.token then return nil end
  return {'OK', earlier[2] or '', job_id, earlier[3] or '', earlier[4] or 'busy'}
end

-- Gives the job its id. Returns the fields of its record.
local function create_job(job, payload_json, message_head)
  if message_head == '' then job.suffix = '' end  -- the caller sends the message without a priority
  local record = {'created_ts', NOW, 'payload_json', payload_json}
  for field, value in pairs(job) do
    if value ~= '' and field ~= 'when_full' and field ~= 'max_waiting' then put(record, field, value) end
  end
  job.id = job.session_id .. ':' .. string.format('%.0f', next_number(key.job_id_seq()))
  if job.task_id == '' then return record end
  local earlier = redis.call('SET', key.task(job.task_id), job.id, 'GET')
  if earlier then record_successor(earlier, job.id) end
  return record
end

-- The message of a job with an id.
local function message_of(job, message_head, message_tail) return message_head .. cjson.encode(job.id) .. message_tail end

-- Dispatches a job to this node, and returns its answer.
local function dispatch_to(job, node, pool, chosen_by, payload_json, message_head, message_tail)
  local record = create_job(job, payload_json, message_head)
  put(record, 'status', 'dispatched')
  assign_slot(job, node, pool, chosen_by, record)
  if message_head ~= '' then
    redis.call('LPUSH', key.node_queue(node.id), message_of(job, message_head, message_tail))
  end
  return {'OK', node.id, job.id, pool, chosen_by}
end

-- Returns the answer for a job that finds a free slot at once, else nil. Then include/dispatch.lua dispatches the job.
local function dispatch_at_once(job, payload_json, message_head, message_tail)
  local answer = earlier_answer(job)
  if answer then return answer end
  if job.affinity == 'require' or (message_head ~= '' and tonumber(job.due_ts) > NOW) then return nil end
  -- One question for both, since there is seldom either.
  local line = line_name(job, '')
  if redis.call('EXISTS', key.waiting(line), key.paused()) > 0 then return nil end
  has_paused_pools = false
  local capabilities, session = split(job.caps, '[^,]+'), read_session(job.session_id)
  local node, pool, chosen_by = choose_node(job, session, pools_of(job.where), capabilities, '')
  return node and dispatch_to(job, node, pool, chosen_by, payload_json, message_head, message_tail)
end
