-- include: context
-- A node acknowledges the message of a job that it is about to begin. From this step on, no other node gets the
-- message. If this node dies, the job is lost and reported.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] node_id
-- ARGV[3] delivery_tag of the message
-- ARGV[4] term in which the node claimed the job
--
-- Returns {"OK", "acknowledged"}
--         {"OK", "refused"}   the node was declared dead since its claim
--         {"OK", "gone"}      a rescuer has moved the message, and places the job again

local node_id, delivery_tag = ARGV.node_id, ARGV.delivery_tag

write_even_without_memory()
if redis.call('HGET', key.node_info(node_id), 'term') ~= ARGV.term then return {'OK', 'refused'} end
if redis.call('HEXISTS', key.node_unacked(node_id), delivery_tag) == 0 then return {'OK', 'gone'} end
redis.call('SADD', key.node_acked(node_id), delivery_tag)
return {'OK', 'acknowledged'}
