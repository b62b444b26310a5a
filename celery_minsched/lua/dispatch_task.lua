-- include: dispatch
-- For each of some jobs, in order: resolves its demand to the least-loaded node with a free slot, takes
-- the slot, records the job and the session, and sends the message to the node's queue. Where no slot
-- is free, or it is not yet time, the message goes to the job's own list and the job waits in line or
-- for its time; or the job is refused, and then those after it are not looked at.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2...] four for each job:
--   JSON object of strings: the fields of a job that celery_minsched/scheduler.py gives it (where,
--   caps: see include/demand.lua), and
--         when_full    "error" or "wait"
--         max_waiting  the most jobs in a line
--   payload_json, stored and not read
--   the message up to where its job's id belongs, a JSON string; and the rest of it. Not read. Both ""
--   where the caller sends the message: then a job takes a slot at once or is refused
--
-- Returns for each job, up to the first refused:
--         {"OK", node_id, job_id, pool, chosen_by}
--         {"OK", "", job_id, "", "delayed"}      until its due_ts
--         {"OK", "", job_id, "", "busy"}         all nodes that can do it are full
--         {"OK", "", job_id, "", "impossible"}   no registered node can do it
--         {"NO_POOL_FOR_LANG_PAIR"}              no pool, or not the one named, serves the pair
--         {"EMPTY_POOL", pool}                   no node of the pool has what is asked for
--         {"NO_AVAILABLE_NODE"}                  those that have it are full, draining or offline
--         {"BACKLOGGED", jobs in line}

local answers = {}
for i = 2, #ARGV, 4 do
  local answer = dispatch(cjson.decode(ARGV[i]), ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
  answers[#answers + 1] = answer
  if answer[1] ~= 'OK' then break end
end
return answers
