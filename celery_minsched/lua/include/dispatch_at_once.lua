-- include: dispatch_plain
-- include: node_choice
-- The dispatch of a job that finds a free slot at once.

-- Dispatches a job to the node that choose_node has chosen, and returns its answer.
local function dispatch_to_chosen(job, node, pool, chosen_by, payload_json, message_head, message_tail)
  local answer = dispatch_to(job, node, pool, chosen_by, payload_json, message_head, message_tail)
  if job.session_id ~= '' then attempt(record_in_session, job, node.id, pool) end
  return answer
end

-- Returns the answer for such a job, else nil.
local function dispatch_at_once(job, payload_json, message_head, message_tail)
  local answer = earlier_answer(job)
  if answer then return answer end
  if job.affinity == 'require' or (message_head ~= '' and tonumber(job.due_ts) > NOW) then return nil end
  local line = line_name(job, '')
  if redis.call('EXISTS', key.waiting(line), key.paused()) > 0 then return nil end
  has_paused_pools = false
  local capabilities, session = split(job.caps, '[^,]+'), read_session(job.session_id)
  local node, pool, chosen_by = choose_node(job, session, pools_of(job.where), capabilities, '')
  return node and dispatch_to_chosen(job, node, pool, chosen_by, payload_json, message_head, message_tail)
end
