-- include: line_index
-- Corrects the number of jobs that wait for a demand.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] pool_selector, see dispatch_task
-- ARGV[3...] lines, all that have this selector
--
-- Returns {"OK", jobs}

local waiting = 0
write_even_without_memory()
for line in ARGV.lines do waiting = waiting + redis.call('ZCARD', key.waiting(line)) end
if waiting > 0 then
  redis.call('HSET', key.waiting_counts(), ARGV.pool_selector, waiting)
else
  redis.call('HDEL', key.waiting_counts(), ARGV.pool_selector)
end
return {'OK', waiting}
