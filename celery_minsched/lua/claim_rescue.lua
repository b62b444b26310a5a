-- include: rescue
-- Takes on what only a reader of messages can do: moving a gone node's messages to their jobs' own
-- lists, and telling who waits for lost jobs. Left to the caller alone for ten seconds, and then to
-- whoever asks next.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
--
-- Returns {"OK", a node that is gone or "", a lost job, ...}

write_even_without_memory()
local answer = {'OK', ''}
for _, node_id in ipairs(redis.call('ZRANGEBYSCORE', key.rescues(), '-inf', NOW, 'LIMIT', 0, 10)) do
  if is_gone(node_id) then
    redis.call('ZADD', key.rescues(), NOW + RESCUE_CLAIM, node_id)
    answer[2] = node_id
    break
  end
  redis.call('ZREM', key.rescues(), node_id)
end
for _, job_id in ipairs(redis.call('ZRANGEBYSCORE', key.lost(), '-inf', NOW, 'LIMIT', 0, 20)) do
  redis.call('ZADD', key.lost(), NOW + RESCUE_CLAIM, job_id)
  answer[#answer + 1] = job_id
end
return answer
