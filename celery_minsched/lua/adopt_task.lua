-- include: dispatch
-- Takes messages out of an ordinary queue and dispatches them, each in one step. So either a plain worker or this
-- script takes a message. `celery minsched adopt` calls it.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] queue_list: key of the ordinary queue's list
-- ARGV[3...] jobs (raw, demand, payload_json, message_head, message_tail): the message as it is in the list, then the
--         four of dispatch_task. At most 100 jobs. With more, the script returns the error TOO_MANY_JOBS and writes
--         nothing.
--
-- Returns an answer for each job, up to the first refused job. The message of the refused job goes back to the end from
-- which workers take messages. If the call reaches a limit, there are fewer answers, see dispatch_task. An answer is
--         what dispatch_task returns for a job
--         {"GONE"}   the message is no longer in the list

if #ARGV.jobs > MOST_JOBS then
  return redis.error_reply('TOO_MANY_JOBS: at most ' .. MOST_JOBS .. ' in one call; nothing was done')
end

local MOST_PASSED = 50000  -- messages of the list
local passed = 0

-- Takes a message out of the list. If the message is gone, Redis reads the whole list.
local function take(raw)
  local at = redis.call('LPOS', ARGV.queue_list, raw, 'RANK', -1)
  passed = passed + redis.call('LLEN', ARGV.queue_list) - (at or 0)
  -- The first write: without memory, Redis refuses a script here or not at all.
  return at and redis.call('LREM', ARGV.queue_list, -1, raw) == 1
end

local answers = {}
for raw, demand, payload_json, message_head, message_tail in ARGV.jobs do
  local answer = {'GONE'}
  if take(raw) then
    local job = setmetatable(cjson.decode(demand), DEFAULTS)
    answer = dispatch(job, payload_json, message_head, message_tail)
  end
  answers[#answers + 1] = answer
  if answer[1] ~= 'OK' and answer[1] ~= 'GONE' then
    redis.call('RPUSH', ARGV.queue_list, raw)
    break
  end
  if is_call_full() or passed > MOST_PASSED then break end
end
join_lines(joining)
return answers
