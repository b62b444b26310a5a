-- include: fill
-- Puts a line right: while jobs wait in it, it is known, and filed in the indexes of its pools; else it is gone.
-- Changes nothing of a line that is right.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua     ARGV[2] line
-- ARGV[3] indexes in which it was seen, as in the offers of register_node; "" for none
--
-- Returns {"OK"}

local line = ARGV[2]

write_even_without_memory()
for pool, capability in lines(ARGV[3]) do redis.call('ZREM', waiting_key(pool, capability), line) end
if redis.call('EXISTS', key.waiting(line)) == 1 then
  redis.call('HSETNX', key.lines(), line, '')
  file_line(line)
else
  rank_line(line)
end
return {'OK'}
