-- include: rescue
-- include: relink
-- Puts a node right by its record: into every index that the record states and out of those that it
-- does not, its count to the size of its job set, its free slots to waiting jobs. What a node that is
-- not there has left is given to the rescue, or removed if nothing is to be rescued. Changes
-- nothing of a node that is right.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] node_id; "*" for what a program said of a language pair, "" for a pool or a pair of no node
-- ARGV[3] suffixes of the message lists, one for each of kombu's priority steps, separated by lines
-- ARGV[4] indexes in which it was seen, as in the offers of register_node
-- ARGV[5] language pairs for which it was seen to speak, as in its speaks
--
-- Returns {"OK"}

local node_id, suffixes = ARGV[2], split(ARGV[3] .. '\n', '([^\n]*)\n')

write_even_without_memory()
local node = redis.call('HMGET', key.node_info(node_id),
  'max_jobs', 'offers', 'speaks', 'last_heartbeat_ts')
local offers, speaks = node[2] or '', node[3] or ''

local function says(text, one, other)
  return string.find('\n' .. text, '\n' .. one .. '\t' .. other .. '\n', 1, true) ~= nil
end

if node[1] then
  redis.call('ZADD', key.nodes(), 'NX', node[4] or 0, node_id)
  enter_offers(node_id, offers)
  redis.call('DEL', key.node_searches(node_id))
  for pool, pair in lines(speaks) do serve_pair(pair, pool, node_id) end
else
  redis.call('DEL', key.node_info(node_id), key.node_runtime(node_id))
  redis.call('ZREM', key.nodes(), node_id)
end

for pool, capability in lines(ARGV[4]) do
  if not says(offers, pool, capability) then
    redis.call('SREM', members_key(pool, capability), node_id)
    redis.call('ZREM', free_key(pool, capability), node_id)
  end
  if redis.call('EXISTS', members_key(pool, '')) == 1 then enter_pool(pool) else leave_pool(pool) end
end
for pool, pair in lines(ARGV[5]) do
  if node_id ~= '*' and not says(speaks, pool, pair) then
    redis.call('SREM', key.lang_speakers(pair, pool), node_id)
  end
  local is_served = redis.call('EXISTS', key.lang_speakers(pair, pool)) == 1
  redis.call(is_served and 'SADD' or 'SREM', key.lang(pair), pool)
  redis.call(is_served and 'SADD' or 'SREM', key.pool_langs(pool), pair)
end

for pool, pair in lines(ARGV[5]) do relink_pair(pool, pair) end
relink_changed()
place_node(node_id)
if is_absent(node_id) then
  if redis.call('EXISTS', key.node_jobs(node_id)) == 1 or has_messages(node_id, suffixes) then
    give_up_node(node_id)
  elseif redis.call('EXISTS', key.lost()) == 0 then  -- else they may say who is to be told
    redis.call('DEL', key.node_unacked(node_id), key.node_unacked_index(node_id), key.node_acked(node_id))
  end
else
  fill_node(node_id)
end
return {'OK'}
