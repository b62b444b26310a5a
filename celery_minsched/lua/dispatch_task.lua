-- include: dispatch
-- For each of some jobs, in order: resolves its demand to the least-loaded node with a free slot, takes
-- the slot, records the job and the session, and sends the message to the node's queue. Where no slot
-- is free, or it is not yet time, the message goes to the job's own list and the job waits in line or
-- for its time; or the job is refused, and then those after it are not looked at.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2...] four for each job, 100 jobs at the most. With more, the script returns the error TOO_MANY_JOBS and writes
-- nothing. Redis copies 1 MB of messages in 1 ms: send more in several calls, in order. The four are:
--   JSON object of strings, all of them, "" for what is not asked:
--         where        which pools will do: "asr", the pool; "zh:en", those that serve the pair, and
--                      after a "|" the pair to look up next; "asr=zh:en", the pool, if it serves it
--         caps         capabilities that the node must have, sorted, separated by commas
--         session_id   the job's id begins with it
--         src_lang, tgt_lang   as the caller put them: recorded, and not read
--         preferred    node_id
--         affinity     "prefer" the session's node, "require" it or the preferred one, or "none"
--         fairness     jobs that wait in the same pool take turns by it; usually the session_id
--         band         which of kombu's priority steps, "0" first
--         suffix       what kombu appends to the name of a list for that step, "" for the first
--         due_ts       ms since the epoch: hold no slot before; "0" for now
--         expires_ts   ms since the epoch: drop after; "0" for never
--         task_id, token       the same two again get the same answer
--         when_full    "error" or "wait"
--         max_waiting  the most jobs in a line
--   payload_json, stored and not read
--   the message up to where its job's id belongs, a JSON string; and the rest of it. Not read. Both ""
--   where the caller sends the message: then a job takes a slot at once or is refused
--
-- Returns an answer for each job, up to the first refused. If there are fewer answers than jobs and none is refused,
-- the call has done as much as one may (nodes with hundreds of capabilities, pairs with hundreds of pools): send the
-- other jobs again.
--         {"OK", node_id, job_id, pool, chosen_by}
--         {"OK", "", job_id, "", "delayed"}      until its due_ts
--         {"OK", "", job_id, "", "busy"}         all nodes that can do it are full
--         {"OK", "", job_id, "", "impossible"}   no registered node can do it. A demand for several
--                                                capabilities, each of which more than 1,000 nodes
--                                                have, is taken for possible
--         {"NO_POOL_FOR_LANG_PAIR"}              no pool, or not the one named, serves the pair
--         {"EMPTY_POOL", pool}                   no node of the pool has what is asked for
--         {"NO_AVAILABLE_NODE"}                  those that have it are full, draining or offline
--         {"BACKLOGGED", jobs in line}

if #ARGV > 1 + 4 * MOST_JOBS then return too_many_jobs() end
local answers = {}
for i = 2, #ARGV, 4 do
  local answer = dispatch(cjson.decode(ARGV[i]), ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
  answers[#answers + 1] = answer
  if answer[1] ~= 'OK' or is_enough() then break end
end
join_lines(joining)
return answers
