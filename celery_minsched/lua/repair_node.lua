-- include: rescue
-- include: reindex
-- Repairs a node by its record. The node enters the indexes of its record and leaves all others. Its count becomes the
-- size of its job set. Waiting jobs get its free slots. If the node does not exist, its remains are due for rescue, or
-- are removed if there is nothing to rescue. A node without a fault is not changed.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] node_id; "*" for a mapping of a language pair by a program, "" for a pool or a pair without a node
-- ARGV[3] priority_suffixes of the message lists, one for each of kombu's priority steps, separated by newlines
-- ARGV[4] advertised_indexes in which it was seen, in the format of register_node
-- ARGV[5] language_pairs that it was seen to serve, in the format of register_node
--
-- Returns {"OK"}

local node_id, priority_suffixes = ARGV.node_id, split(ARGV.priority_suffixes .. '\n', '([^\n]*)\n')

write_even_without_memory()
local node = redis.call('HMGET', key.node_info(node_id),
  'max_jobs', 'offers', 'speaks', 'last_heartbeat_ts')
local advertised_indexes, language_pairs = node[2] or '', node[3] or ''

local function has_pair(text, one, other)
  return string.find('\n' .. text, '\n' .. one .. '\t' .. other .. '\n', 1, true) ~= nil
end

if node[1] then
  redis.call('ZADD', key.nodes(), 'NX', node[4] or 0, node_id)
  enter_indexes(node_id, advertised_indexes)
  redis.call('DEL', key.node_searches(node_id))
  for pool, pair in each_pair(language_pairs) do serve_pair(pair, pool, node_id) end
else
  redis.call('DEL', key.node_info(node_id), key.node_runtime(node_id))
  redis.call('ZREM', key.nodes(), node_id)
end

for pool, capability in each_pair(ARGV.advertised_indexes) do
  if not has_pair(advertised_indexes, pool, capability) then
    redis.call('SREM', members_key(pool, capability), node_id)
    redis.call('ZREM', free_key(pool, capability), node_id)
  end
  if redis.call('EXISTS', members_key(pool, '')) == 1 then open_pool(pool) else close_pool(pool) end
end
for pool, pair in each_pair(ARGV.language_pairs) do
  if node_id ~= '*' and not has_pair(language_pairs, pool, pair) then
    redis.call('SREM', key.lang_speakers(pair, pool), node_id)
  end
  local is_served = redis.call('EXISTS', key.lang_speakers(pair, pool)) == 1
  redis.call(is_served and 'SADD' or 'SREM', key.lang(pair), pool)
  redis.call(is_served and 'SADD' or 'SREM', key.pool_langs(pool), pair)
end

for pool, pair in each_pair(ARGV.language_pairs) do reindex_pair_later(pool, pair) end
reindex_changed_pairs()
update_free_sets(node_id)
if is_absent(node_id) then
  if redis.call('EXISTS', key.node_jobs(node_id)) == 1 or has_messages(node_id, priority_suffixes) then
    enqueue_rescue(node_id)
  elseif redis.call('EXISTS', key.lost()) == 0 then  -- else they may name callers that need a report
    redis.call('DEL', key.node_unacked(node_id), key.node_unacked_index(node_id), key.node_acked(node_id))
  end
else
  assign_waiting_jobs(node_id)
end
return {'OK'}
