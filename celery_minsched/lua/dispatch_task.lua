-- include: dispatch_plain
-- Dispatches jobs, in order. For each job, finds the least-loaded node for its demand that has a free slot, takes the
-- slot, records the job and the session, and sends the message to the node's queue. If no slot is free, or the job is
-- not due yet, the message goes to the job's own list and the job waits. Or the job is refused, and the jobs after it
-- are not dispatched.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2...] jobs (demand, payload_json, message_head, message_tail): at most 100 jobs. With more, the script
-- returns the error TOO_MANY_JOBS and writes nothing. Redis copies 1 MB of messages in 1 ms: send more in several
-- calls, in order.
--   demand: a JSON object of strings. Only `where` is required. Brackets show the default of a field:
--         where        the pool selector: "asr" is this pool; "zh:en" is any pool that serves the pair, and after "|"
--                      follows the next pair to look up; "asr=zh:en" is this pool, if it serves the pair
--         caps         [""] capabilities that the node must have, sorted, separated by commas
--         session_id   [""] the job's id begins with it
--         src_lang, tgt_lang, and each field that is not in this list   [""] recorded, but not read
--         preferred    [""] node_id
--         affinity     ["prefer"] the session's node, "require" it or the preferred one, or "none"
--         fairness     [""] the fairness key: jobs that wait in one pool take turns by it. Usually the session_id
--         band         ["0"] the index of one of kombu's priority steps, "0" is the first
--         suffix       [""] what kombu appends to the name of a list for that step
--         due_ts       ["0"] ms since the epoch: takes no slot before; "0" is now
--         expires_ts   ["0"] ms since the epoch: is discarded after; "0" is never
--         task_id, token       [""] a second call with both the same gets the same answer
--         when_full    ["error"] or "wait"
--         max_waiting  the most jobs in a line, required to wait
--   payload_json: recorded, but not read
--   message_head, message_tail: the message before and after the job's id, which is a JSON string. Not read. Both
--         are "" if the caller sends the message: then the job takes a slot at once or is refused
--
-- Returns an answer for each job, up to the first refused job. If there are fewer answers and no job is refused, the
-- call has reached a limit (nodes with hundreds of capabilities, pairs with hundreds of pools): send the other jobs
-- again.
--         {"OK", node_id, job_id, pool, chosen_by}
--         {"OK", "", job_id, "", "delayed"}      waits until its due_ts
--         {"OK", "", job_id, "", "busy"}         waits: all nodes that can do it are full
--         {"OK", "", job_id, "", "impossible"}   waits: no registered node can do it. If more than 1,000 nodes have
--                                                each of several capabilities, it counts as possible
--         {"NO_POOL_FOR_LANG_PAIR"}              no pool serves the pair, or the named pool does not
--         {"EMPTY_POOL", pool}                   no node of the pool has the capabilities
--         {"NO_AVAILABLE_NODE"}                  all nodes that can do it are full, draining or offline
--         {"BACKLOGGED", jobs in line}

if #ARGV.jobs > MOST_JOBS then
  return redis.error_reply('TOO_MANY_JOBS: at most ' .. MOST_JOBS .. ' in one call; nothing was done')
end
local answers = {}

-- Calls dispatch_one(job, …) for each job without an answer, in order. Stops if it returns nil. Returns whether the call
-- is done.
local function is_done_by(dispatch_one)
  for demand, payload_json, message_head, message_tail in ARGV.jobs after #answers do
    local job = setmetatable(cjson.decode(demand), DEFAULTS)
    local answer = dispatch_one(job, payload_json, message_head, message_tail)
    if not answer then return false end
    answers[#answers + 1] = answer
    if answer[1] ~= 'OK' or is_call_full() then return true end
  end
  return true
end

if is_done_by(dispatch_plain) then return answers end

-- include: dispatch_at_once

if is_done_by(dispatch_at_once) then return answers end

-- include: dispatch

is_done_by(dispatch)
join_lines(joining)
return answers
