-- include: job
-- include: demand
-- The dispatch of a job to a node, and of the usual job: a pool has a node with a free slot for it, and nothing waits.
-- Redis needs longer to make a script's functions than to dispatch a job. So these are few.

-- Limits of one call: Redis serves no other client meanwhile. Python reads MOST_JOBS here.
local MOST_JOBS = 100
local MOST_WRITES = 5000  -- to the free sets of nodes

-- What a demand leaves out.
local DEFAULTS = {__index = {session_id = '', src_lang = '', tgt_lang = '', caps = '', preferred = '', affinity = 'prefer',
  fairness = '', band = '0', suffix = '', due_ts = '0', expires_ts = '0', task_id = '', token = ''}}

-- Has this call reached a limit? Then the caller sends the other jobs again.
local function is_call_full()
  return index_writes > MOST_WRITES or bytes_left <= 0 or pools_read > MOST_POOLS
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
local function create_job(job, payload_json, message_head, status)
  if message_head == '' then job.suffix = '' end  -- the caller sends the message without a priority
  local record = {'created_ts', NOW, 'payload_json', payload_json, 'status', status}
  for field, value in pairs(job) do
    if value ~= '' and field ~= 'when_full' and field ~= 'max_waiting' then
      record[#record + 1] = field
      record[#record + 1] = value
    end
  end
  local sequence = next_number(key.job_id_seq())
  job.id = job.session_id .. ':' .. (sequence < 1e14 and sequence or string.format('%.0f', sequence))
  if job.task_id == '' then return record end
  local earlier = redis.call('SET', key.task(job.task_id), job.id, 'GET')
  if earlier then record_successor(earlier, job.id) end
  return record
end

-- Dispatches a job to this node, and returns its answer.
local function dispatch_to(job, node, pool, chosen_by, payload_json, message_head, message_tail)
  local record = create_job(job, payload_json, message_head, 'dispatched')
  increment_counter(pool, chosen_by)
  assign_slot(job, node, pool, chosen_by, record)
  if message_head ~= '' then
    redis.call('LPUSH', key.node_queue(node.id), message_head .. cjson.encode(job.id) .. message_tail)
  end
  return {'OK', node.id, job.id, pool, chosen_by}
end

-- Returns the answer for a job without a wish for a node, for one pool and at most one capability, if a free slot is
-- there at once. Else nil.
local function dispatch_plain(job, payload_json, message_head, message_tail)
  local pool, capability, line = job.where, job.caps, line_name(job, '')
  if job.session_id ~= '' or job.preferred ~= '' or job.due_ts ~= '0'
    or string.find(pool, '[=:]') or string.find(capability, ',', 1, true) then return nil end
  local answer = earlier_answer(job)
  if answer then return answer end
  -- One question for both, since there is seldom either.
  if redis.call('EXISTS', key.waiting(line), key.paused()) > 0 then return nil end
  local free = free_key(pool, capability)
  local first_two = first_two_of(free)
  local node = first_two[1] and attempt(read_node, first_two[1])
  if not node or not is_fresh(node) then return nil end
  describe_choice(node, free, first_two[2], first_two)
  return dispatch_to(job, node, pool, 'least_loaded', payload_json, message_head, message_tail)
end
