-- include: node
-- What a node advertises: its indexes, and the language pairs that its pools serve.

-- The mappings of language pairs to pools that this call has changed, by both names. See include/reindex.lua.
local changed_pairs = {}

local function record_pair_change(pool, pair)
  local name = pool .. '\t' .. pair
  changed_pairs[name] = not changed_pairs[name] and {pool, pair} or nil
end

-- Records that `speaker` (a node id, or '*' for a mapping set by a program) makes the pool serve the language pair.
local function serve_pair(pair, pool, speaker)
  redis.call('SADD', key.lang_speakers(pair, pool), speaker)
  redis.call('SADD', key.pool_langs(pool), pair)
  if redis.call('SADD', key.lang(pair), pool) == 1 then record_pair_change(pool, pair) end
end

-- Removes the record that `speaker` makes the pool serve the language pair.
local function unserve_pair(pair, pool, speaker)
  redis.call('SREM', key.lang_speakers(pair, pool), speaker)
  if redis.call('EXISTS', key.lang_speakers(pair, pool)) == 0 then
    redis.call('SREM', key.pool_langs(pool), pair)
    if redis.call('SREM', key.lang(pair), pool) == 1 then record_pair_change(pool, pair) end
  end
end

-- Adds the node to its advertised indexes.
local function enter_indexes(node_id, advertised_indexes)
  for pool, capability in each_pair(advertised_indexes) do
    redis.call('SADD', members_key(pool, capability), node_id)
    if capability == '' then open_pool(pool) end
  end
end

-- Removes the node from all indexes and language pairs of its last registration.
local function leave_indexes(node_id)
  local registered = redis.call('HMGET', key.node_info(node_id), 'offers', 'speaks')
  for pool, capability in each_pair(registered[1]) do
    redis.call('SREM', members_key(pool, capability), node_id)
    redis.call('ZREM', free_key(pool, capability), node_id)
    if capability == '' and redis.call('EXISTS', members_key(pool, '')) == 0 then close_pool(pool) end
  end
  for pool, pair in each_pair(registered[2]) do unserve_pair(pair, pool, node_id) end
end
