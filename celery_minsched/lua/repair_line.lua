-- include: line
-- Puts a line right: it is known, and is found by the slots that can serve it, while somebody stands in
-- it; and else it is gone. Changes nothing of a line that is right.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua     ARGV[2] line
--
-- Returns {"OK"}

local line = ARGV[2]

local first = redis.call('ZRANGE', key.waiting(line), 0, 0, 'WITHSCORES')
if #first == 0 then
  leave_line({line = line, ticket = ''})
else
  redis.call('HSETNX', key.lines(), line, string.format('%.0f', tonumber(first[2]) % BAND))
  link_line(line)
end
return {'OK'}
