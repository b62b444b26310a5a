-- include: context
-- A node is about to begin a job, whose message it acknowledges before the job ends. From this step on the
-- message is not given to another node: if this one dies, the job is lost and reported.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] node_id      ARGV[3] delivery tag of the message
-- ARGV[4] the term in which the node claimed the job
--
-- Returns {"OK", "acknowledged"}
--         {"OK", "refused"}   the node was declared dead since its claim
--         {"OK", "gone"}      a rescuer has moved the message: the job is to be placed again

local node_id, tag, term = ARGV[2], ARGV[3], ARGV[4]

write_even_without_memory()
if redis.call('HGET', key.node_info(node_id), 'term') ~= term then return {'OK', 'refused'} end
if redis.call('HEXISTS', key.node_unacked(node_id), tag) == 0 then return {'OK', 'gone'} end
redis.call('SADD', key.node_acked(node_id), tag)
return {'OK', 'acknowledged'}
