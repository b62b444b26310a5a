-- include: maintenance_due
-- include: leases
-- include: load
-- include: stuck
-- Records a node's heartbeat: its load, and the jobs that it holds. Renews the leases of these jobs, and restores what
-- Redis has lost of them. Frees slots that the node never confirmed. Fills free slots with waiting jobs. Runs the
-- maintenance that is due, see include/maintenance.lua.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] node_id
-- ARGV[3] instance, "" if only one process can be the node
-- ARGV[4] online, "true" or "false"
-- ARGV[5] load_json
-- ARGV[6] load, 0..100
-- ARGV[7] priority_suffixes of the message lists, one for each of kombu's priority steps, separated by newlines
-- ARGV[8] listing: "jobs" if job_ids are all jobs of the node, "some" if a call with the others follows, "" if the node
--         cannot determine at present
-- ARGV[9] is_rescuer, "true" if the caller does rescues when the answer asks for it, "false" if it cannot read messages
-- ARGV[10] state: why the node takes no jobs, "stuck" or "stopping"; "" if it takes jobs, or leaves
-- ARGV[11] takes_at_once, "true" if the node takes each message from its queue as soon as it arrives, "false" if it may
--         leave the message there, or does not know
-- ARGV[12] interval_ms, the node's interval between two heartbeats until it has this answer
-- ARGV[13...] job_ids, at most 1,000. If the node is not online, gives no state and holds no job, it has left
--
-- Returns {"OK", taken slots, draining "true"/"false", ms until the next heartbeat is needed or -1,
--          is a rescue due "true"/"false", term: a new number after the node was declared dead,
--          does a message in the node's queue show that it is stuck "true"/"false",
--          the interval that is enough for a fleet of this size, ms,
--          a job that is not the node's, ...}
--         {"UNKNOWN_NODE"}

local HEARTBEATS = 500  -- of the whole fleet in a second: with more nodes, each node sends its own less often

local node_id, online, state, listing = ARGV.node_id, ARGV.online, ARGV.state, ARGV.listing
local job_ids = {ARGV.job_ids}

local node = redis.call('HMGET', key.node_info(node_id),
  'instance', 'draining', 'max_jobs', 'online', 'state', 'term', 'last_heartbeat_ts',
  'unread', 'unread_ms', 'stuck_until', 'load', 'interval_ms')
if not node[3] or (ARGV.instance ~= '' and node[1] ~= '' and node[1] ~= ARGV.instance) then
  return {'UNKNOWN_NODE'}
end

write_even_without_memory()
local is_stuck = 'false'
if online == 'true' and state == '' then
  state = state_by_queue(node_id, ARGV.takes_at_once == 'true', node[8], node[9], node[7], node[10])
  if state ~= '' then online, is_stuck = 'false', 'true' end
end
-- Settings allow no longer interval than a quarter of node_ttl.
local enough = math.min(redis.call('ZCOUNT', key.nodes(), '(0', '+inf') * 1000 / HEARTBEATS, TTL.node / 4)
redis.call('HSET', key.node_info(node_id), 'online', online, 'load_json', ARGV.load_json, 'load', ARGV.load,
  'last_heartbeat_ts', NOW, 'state', state,
  'interval_ms', string.format('%.0f', math.max(enough, tonumber(ARGV.interval_ms))))
redis.call('ZADD', key.nodes(), NOW, node_id)

local answer = {'OK', 0, node[2] == 'true' and 'true' or 'false', -1, 'false', number(node[6]), is_stuck,
  math.floor(enough)}

-- If only the load has changed, and not its level, and the node has nothing to do, the heartbeat ends here. Redis needs
-- longer to make the functions of the further includes than to run all commands of such a heartbeat.
local taken = redis.call('ZCARD', key.node_jobs(node_id))
local unconfirmed = jobs_to_confirm(node_id, job_ids)
local function is_at_rest()
  if online ~= 'true' or node[4] ~= 'true' or node[2] == 'true' then return false end
  if load_level(number(node[11])) ~= load_level(tonumber(ARGV.load)) then return false end
  if node[5] ~= '' or (ARGV.instance ~= '' and node[1] ~= ARGV.instance) or #unconfirmed > 0 then return false end
  if listing == 'jobs' and taken > 0
    and redis.call('ZCOUNT', key.node_jobs(node_id), '-inf', NOW) > 0 then return false end
  if taken < number(node[3]) and redis.call('EXISTS', key.lines()) == 1 then return false end
  local queue_lists = {}
  for priority_suffix in string.gmatch(ARGV.priority_suffixes .. '\n', '([^\n]*)\n') do
    queue_lists[#queue_lists + 1] = key.node_queue(node_id) .. priority_suffix
  end
  if is_maintenance_due(node_id, queue_lists) then return false end
  local _, was_set_back = record_heartbeat()
  return not was_set_back
end
if is_at_rest() then
  answer[2] = taken
  return answer
end

-- include: maintenance
-- include: node_queue

-- A node that has left frees its id. The jobs that it still holds are rescued.
local priority_suffixes = split(ARGV.priority_suffixes .. '\n', '([^\n]*)\n')
local has_left = online ~= 'true' and state == '' and listing == 'jobs' and #job_ids == 0
if has_left then
  if node[4] == 'true' or node[1] ~= '' then emit_event('node_left', 'node', node_id) end
  redis.call('HSET', key.node_info(node_id), 'instance', '', 'suspects', '')
elseif online == 'true' and ARGV.instance ~= '' then
  redis.call('HSET', key.node_info(node_id), 'instance', ARGV.instance)
end
if state ~= '' and state ~= node[5] then
  emit_event('node_' .. state, 'node', node_id)
elseif online == 'true' and node[4] ~= 'true' then
  emit_event(node[5] == 'stuck' and 'node_recovered' or 'node_joined', 'node', node_id)
end
merge_priority_lists(node_id, priority_suffixes)
for _, job_id in ipairs(unconfirmed) do
  if not confirm_job(node_id, job_id) then answer[#answer + 1] = job_id end
end
if has_left then
  hand_over_to_rescue(node_id, priority_suffixes)
elseif listing == 'jobs' then
  expire_leases(node_id, priority_suffixes)
end
-- Heartbeats that list no jobs count too: jobs that are rescued from the node have no claim of this term.
if not has_left and (listing ~= '' or online == 'true' or state ~= '') then
  redis.call('ZREM', key.rescues(), node_id)
end
answer[2] = update_free_sets(node_id)
if listing == 'some' then return answer end
if not read_working_node(node_id) then release_lines_of_node(node_id) end
local more = select(2, assign_waiting_jobs(node_id))
answer[4] = run_maintenance(node_id, priority_suffixes, ARGV.is_rescuer == 'true')
if more then answer[4] = 0 end
if is_rescue_due() then answer[5] = 'true' end
answer[2] = redis.call('ZCARD', key.node_jobs(node_id))
return answer
