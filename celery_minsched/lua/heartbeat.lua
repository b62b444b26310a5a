-- include: chores
-- include: node_queue
-- include: unread
-- A node's sign of life: its load, and which jobs it holds. Where it and Redis differ on the jobs,
-- the difference is mended: the node's list renews their leases and rebuilds what Redis lost; a
-- reservation that the node never confirmed lapses. Its free slots are filled from the lines, and
-- what is due for all is done: see include/chores.lua.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] node_id      ARGV[3] instance, "" where only one process can be the node
-- ARGV[4] online, "true" or "false"          ARGV[5] load_json     ARGV[6] load, 0..100
-- ARGV[7] suffixes of the message lists, one for each of kombu's priority steps, separated by lines
-- ARGV[8] "jobs" where the job ids follow, "" where the node cannot tell just now
-- ARGV[9] "true" where the caller rescues when this says so, "false" where it cannot read messages
-- ARGV[10] the reason for which the node takes no jobs, "stuck" or "stopping"; "" if it takes jobs, or leaves
-- ARGV[11] "true" if the node takes each message from its queue as soon as it comes, "false" if it may leave
--         the message there, or does not know
-- ARGV[12...] job ids. A node that is not online, gives no reason and holds no job, has left
--
-- Returns {"OK", slots taken, draining "true"/"false", ms until this is worth calling again or -1,
--          is there something to rescue "true"/"false", term: a new number once the node was declared
--          dead, did a message in its queue show that it is stuck "true"/"false",
--          a job that is not the node's, ...}
--         {"UNKNOWN_NODE"}

local node_id, instance, online, load_json, load = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local state = ARGV[10]
local suffixes = split(ARGV[7] .. '\n', '([^\n]*)\n')

local node = redis.call('HMGET', key.node_info(node_id),
  'instance', 'draining', 'max_jobs', 'online', 'state', 'term', 'last_heartbeat_ts',
  'unread', 'unread_ms', 'stuck_until')
if not node[3] or (instance ~= '' and node[1] ~= '' and node[1] ~= instance) then
  return {'UNKNOWN_NODE'}
end

write_even_without_memory()
local is_stuck = 'false'
if online == 'true' and state == '' then
  state = state_by_evidence(node_id, ARGV[11] == 'true', node[8], node[9], node[7], node[10])
  if state ~= '' then online, is_stuck = 'false', 'true' end
end
redis.call('HSET', key.node_info(node_id), 'online', online, 'load_json', load_json, 'load', load,
  'last_heartbeat_ts', NOW, 'state', state)
-- A node that has left frees its id, and the jobs that it still holds are rescued.
local has_left = online ~= 'true' and state == '' and ARGV[8] == 'jobs' and not ARGV[12]
if has_left then
  if node[4] == 'true' or node[1] ~= '' then tell('node_left', 'node', node_id) end
  redis.call('HSET', key.node_info(node_id), 'instance', '', 'suspects', '')
elseif online == 'true' and instance ~= '' then
  redis.call('HSET', key.node_info(node_id), 'instance', instance)
end
if state ~= '' and state ~= node[5] then
  tell('node_' .. state, 'node', node_id)
elseif online == 'true' and node[4] ~= 'true' then
  tell(node[5] == 'stuck' and 'node_recovered' or 'node_joined', 'node', node_id)
end
redis.call('ZADD', key.nodes(), NOW, node_id)
gather_queue(node_id, suffixes)

local answer = {'OK', 0, node[2] or 'false', -1, 'false', tonumber(node[6] or 0), is_stuck}
if ARGV[8] == 'jobs' then
  for i = 12, #ARGV do
    if not confirm_job(node_id, ARGV[i]) then answer[#answer + 1] = ARGV[i] end
  end
  if has_left then leave_to_rescue(node_id, suffixes) else lapse_jobs(node_id, suffixes) end
end
-- Beats that name no jobs count too: jobs that are rescued from the node have no claim of this term.
if not has_left and (ARGV[8] == 'jobs' or online == 'true' or state ~= '') then
  redis.call('ZREM', key.rescues(), node_id)
end
place_node(node_id)
if not takes_jobs(node_id) then open_lines(node_id) end
local _, more = fill_node(node_id)
answer[4] = do_chores(node_id, suffixes, ARGV[9] == 'true')
if more then answer[4] = 0 end
if is_rescue_due() then answer[5] = 'true' end
answer[2] = redis.call('ZCARD', key.node_jobs(node_id))
return answer
