-- include: due
-- include: leases
-- include: load
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
-- ARGV[8] "jobs" where the job ids follow, "some" where these are not all: a call with the others comes next,
--         "" where the node cannot tell just now
-- ARGV[9] "true" where the caller rescues when this says so, "false" where it cannot read messages
-- ARGV[10] the reason for which the node takes no jobs, "stuck" or "stopping"; "" if it takes jobs, or leaves
-- ARGV[11] "true" if the node takes each message from its queue as soon as it comes, "false" if it may leave
--         the message there, or does not know
-- ARGV[12] the node's interval between two heartbeats, ms, until it has this answer
-- ARGV[13...] job ids, 1,000 at most. A node that is not online, gives no reason and holds no job, has left
--
-- Returns {"OK", slots taken, draining "true"/"false", ms until this is worth calling again or -1,
--          is there something to rescue "true"/"false", term: a new number once the node was declared
--          dead, did a message in its queue show that it is stuck "true"/"false",
--          the interval that is enough for a fleet of this size, ms,
--          a job that is not the node's, ...}
--         {"UNKNOWN_NODE"}

local HEARTBEATS = 500  -- of the whole fleet in a second: with more nodes, each sends its own less often

local node_id, instance, online, load_json, load = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local tells, state = ARGV[8], ARGV[10]
local job_ids = {unpack(ARGV, 13)}

local node = redis.call('HMGET', key.node_info(node_id),
  'instance', 'draining', 'max_jobs', 'online', 'state', 'term', 'last_heartbeat_ts',
  'unread', 'unread_ms', 'stuck_until', 'load', 'interval_ms')
if not node[3] or (instance ~= '' and node[1] ~= '' and node[1] ~= instance) then
  return {'UNKNOWN_NODE'}
end

write_even_without_memory()
local is_stuck = 'false'
if online == 'true' and state == '' then
  state = state_by_evidence(node_id, ARGV[11] == 'true', node[8], node[9], node[7], node[10])
  if state ~= '' then online, is_stuck = 'false', 'true' end
end
-- A quarter of the time to live is the longest interval that settings allow.
local enough = math.min(redis.call('ZCOUNT', key.nodes(), '(0', '+inf') * 1000 / HEARTBEATS, TTL.node / 4)
redis.call('HSET', key.node_info(node_id), 'online', online, 'load_json', load_json, 'load', load,
  'last_heartbeat_ts', NOW, 'state', state,
  'interval_ms', string.format('%.0f', math.max(enough, tonumber(ARGV[12]))))
redis.call('ZADD', key.nodes(), NOW, node_id)

local answer = {'OK', 0, node[2] == 'true' and 'true' or 'false', -1, 'false', number(node[6]), is_stuck,
  math.floor(enough)}

-- Has nothing changed but the load within its level, and has the node nothing to do? Then the heartbeat ends here: to
-- make the functions of the further includes takes longer than all commands of such a heartbeat.
local taken = redis.call('ZCARD', key.node_jobs(node_id))
local new = unconfirmed(node_id, job_ids)
local function is_at_rest()
  if online ~= 'true' or node[4] ~= 'true' or node[2] == 'true' then return false end
  if load_level(number(node[11])) ~= load_level(tonumber(load)) then return false end
  if node[5] ~= '' or (instance ~= '' and node[1] ~= instance) or #new > 0 then return false end
  if tells == 'jobs' and taken > 0
    and redis.call('ZCOUNT', key.node_jobs(node_id), '-inf', NOW) > 0 then return false end
  if taken < number(node[3]) and redis.call('EXISTS', key.lines()) == 1 then return false end
  local queue = {}
  for suffix in string.gmatch(ARGV[7] .. '\n', '([^\n]*)\n') do
    queue[#queue + 1] = key.node_queue(node_id) .. suffix
  end
  if is_needed(node_id, queue) then return false end
  local _, was_set_back = note_heartbeat()
  return not was_set_back
end
if is_at_rest() then
  answer[2] = taken
  return answer
end

-- include: chores
-- include: node_queue

-- A node that has left frees its id, and the jobs that it still holds are rescued.
local suffixes = split(ARGV[7] .. '\n', '([^\n]*)\n')
local has_left = online ~= 'true' and state == '' and tells == 'jobs' and #job_ids == 0
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
gather_queue(node_id, suffixes)
for _, job_id in ipairs(new) do
  if not confirm_job(node_id, job_id) then answer[#answer + 1] = job_id end
end
if has_left then
  leave_to_rescue(node_id, suffixes)
elseif tells == 'jobs' then
  lapse_jobs(node_id, suffixes)
end
-- Beats that name no jobs count too: jobs that are rescued from the node have no claim of this term.
if not has_left and (tells ~= '' or online == 'true' or state ~= '') then
  redis.call('ZREM', key.rescues(), node_id)
end
answer[2] = place_node(node_id)
if tells == 'some' then return answer end
if not takes_jobs(node_id) then open_lines(node_id) end
local more = select(2, fill_node(node_id))
answer[4] = do_chores(node_id, suffixes, ARGV[9] == 'true')
if more then answer[4] = 0 end
if is_rescue_due() then answer[5] = 'true' end
answer[2] = redis.call('ZCARD', key.node_jobs(node_id))
return answer
