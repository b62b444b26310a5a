-- include: line
-- Puts a line right: it is known, and is found by the slots that can serve it, while somebody stands in
-- it; and else it is gone. Changes nothing of a line that is right.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua     ARGV[2] line
--
-- Returns {"OK"}

local line = ARGV[2]

write_even_without_memory()
if redis.call('EXISTS', key.waiting(line)) == 0 then
  redis.call('HDEL', key.lines(), line)
  unlink_line(line)
  for band = 0, 9 do redis.call('DEL', key.line_turns(line, band)) end  -- kombu has ten steps at most
else
  redis.call('HSETNX', key.lines(), line, NOW)
  link_line(line)
end
return {'OK'}
