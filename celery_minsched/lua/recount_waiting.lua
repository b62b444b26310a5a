-- include: filing
-- Counts anew the jobs that wait for a demand.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] where, see dispatch_task           ARGV[3...] all lines of this demand
--
-- Returns {"OK", jobs}

local waiting = 0
write_even_without_memory()
for i = 3, #ARGV do waiting = waiting + redis.call('ZCARD', key.waiting(ARGV[i])) end
if waiting > 0 then
  redis.call('HSET', key.waiting_counts(), ARGV[2], waiting)
else
  redis.call('HDEL', key.waiting_counts(), ARGV[2])
end
return {'OK', waiting}
