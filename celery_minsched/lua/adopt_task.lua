-- include: dispatch
-- Takes messages out of an ordinary queue and dispatches them, each in one step: a plain worker takes it, or
-- this does. For celery_minsched/migration/adopt.py.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] key of the ordinary queue's list
-- ARGV[3...] five for each message: the message as it lies there, and the four of dispatch_task. 100 messages at the
--         most, else TOO_MANY_JOBS, as for dispatch_task
--
-- Returns an answer for each message, up to the first refused. The refused message goes back to the end from which
-- messages are taken.
-- There are fewer answers if the call has done as much as one may, see dispatch_task:
--         what dispatch_task returns
--         {"GONE"}   it does not lie there any more

if #ARGV > 2 + 5 * MOST_JOBS then return too_many_jobs() end

local MOST_PASSED = 50000  -- messages of the list
local passed = 0

-- Takes a message out of the list. If the message is gone, Redis looks through the whole list.
local function take(raw)
  local at = redis.call('LPOS', ARGV[2], raw, 'RANK', -1)
  passed = passed + redis.call('LLEN', ARGV[2]) - (at or 0)
  -- The first write, since with no memory left Redis refuses a script at its first write or not at all.
  return at and redis.call('LREM', ARGV[2], -1, raw) == 1
end

local answers = {}
for i = 3, #ARGV, 5 do
  local answer = {'GONE'}
  if take(ARGV[i]) then
    answer = dispatch(cjson.decode(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3], ARGV[i + 4])
  end
  answers[#answers + 1] = answer
  if answer[1] ~= 'OK' and answer[1] ~= 'GONE' then
    redis.call('RPUSH', ARGV[2], ARGV[i])
    break
  end
  if is_enough() or passed > MOST_PASSED then break end
end
join_lines(joining)
return answers
