-- include: job
-- A node takes a job: the job's message becomes one of the node's unacknowledged messages, and the job runs by a claim.

-- What kombu stores behind an unacknowledged message: the exchange, and the queue to which the message goes back.
local function behind_message(job_id)
  local queue = string.sub(key.job_queue(job_id), #KEYS[2] + 1)
  return ',"",' .. cjson.encode(queue) .. ']'
end

-- Adds a job's message to the node's unacknowledged messages, in kombu's form.
local function add_unacked(node_id, delivery_tag, job_id, message)
  redis.call('ZADD', key.node_unacked_index(node_id), NOW / 1000, delivery_tag)
  redis.call('HSET', key.node_unacked(node_id), delivery_tag, '[' .. message .. behind_message(job_id))
end

-- Takes the message out of the job's own list, and adds it to the node's unacknowledged messages. Its delivery tag is
-- the claim: the job may come to the node again, and the end of an earlier claim must not delete the message. Returns
-- the message, or nil if it is gone or those messages are unreadable.
local function take_own_message(job, node_id, claim)
  local message = attempt(redis.call, 'RPOP', own_list(job))
  if not message then return nil end
  if pcall(add_unacked, node_id, claim, job.id, message) then return message end
  redis.call('RPUSH', own_list(job), message)
  return nil
end

-- Moves the latest message that the node takes to its unacknowledged ones, if it has this delivery tag. A tag is a UUID,
-- so the text of another message does not have it.
local function move_taken_message(node_id, delivery_tag, job_id)
  local message = redis.call('LINDEX', key.node_taken(node_id), 0)
  if not message or not string.find(message, delivery_tag, 1, true) then return false end
  add_unacked(node_id, delivery_tag, job_id, message)
  redis.call('LPOP', key.node_taken(node_id))
  return true
end

-- The message of a job that the node has taken by this claim with take_own_message, or nil.
local function message_of_claim(node_id, job_id, claim)
  local job = read_job(job_id)
  if job.status ~= 'running' or job.node_id ~= node_id or job.claim ~= claim then return nil end
  local stored, behind = redis.call('HGET', key.node_unacked(node_id), claim), behind_message(job_id)
  if not stored or string.sub(stored, -#behind) ~= behind then return nil end
  return string.sub(stored, 2, -#behind - 1)
end

-- The place of a claimed job, for its message: the pool, the rule that chose the node, the milliseconds in
-- line. And the node's term, to which the claim belongs.
local function place_of_claim(job_id, node_id)
  local record = redis.call('HMGET', key.job(job_id), 'pool', 'chosen_by', 'waited_ms')
  return record[1] or '', record[2] or '', number(record[3]), number(redis.call('HGET', key.node_info(node_id), 'term'))
end
