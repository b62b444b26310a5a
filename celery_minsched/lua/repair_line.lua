-- include: assignment
-- Repairs a line. If jobs wait in it, adds it to the known lines and to the indexes of its pools. Else removes it. A
-- line without a fault is not changed.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] line
-- ARGV[3] seen_in: indexes in which it was seen, in the format of register_node's advertised_indexes; "" for none
--
-- Returns {"OK"}

local line = ARGV.line

write_even_without_memory()
for pool, capability in each_pair(ARGV.seen_in) do redis.call('ZREM', waiting_key(pool, capability), line) end
if redis.call('EXISTS', key.waiting(line)) == 1 then
  redis.call('HSETNX', key.lines(), line, '')
  index_line(line)
else
  update_line(line)
end
return {'OK'}
