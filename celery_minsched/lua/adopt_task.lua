-- include: dispatch
-- Takes messages out of an ordinary queue and dispatches them, each in one step: a plain worker takes it, or
-- this does. For celery_minsched/adopt.py.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] key of the ordinary queue's list
-- ARGV[3...] five for each message, 100 messages at the most, as for dispatch_task: as it lies there; and the four
-- of dispatch_task
--
-- Returns for each message, up to the first refused, which stays where it was, next to be taken:
--         what dispatch_task returns
--         {"GONE"}   it does not lie there any more

if #ARGV > 2 + 5 * MOST_JOBS then return too_many_jobs() end
local answers = {}
for i = 3, #ARGV, 5 do
  local answer = {'GONE'}
  -- First, since with no memory left Redis refuses a script at its first write or not at all.
  if redis.call('LREM', ARGV[2], -1, ARGV[i]) == 1 then
    answer = dispatch(cjson.decode(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3], ARGV[i + 4])
  end
  answers[#answers + 1] = answer
  if answer[1] ~= 'OK' and answer[1] ~= 'GONE' then
    redis.call('RPUSH', ARGV[2], ARGV[i])
    break
  end
end
join_lines(joining)
return answers
