-- include: job
-- A node's queue. kombu pushes a message with a priority to a separate list for each priority step. The scheduler sends
-- no such message to a node, but a caller may name the queue itself.

local MOST_MERGED = 100  -- messages in one call

-- Moves messages from the queue's other lists to the end of its first list, highest priority first. The node's worker
-- reads only the first list.
local function merge_priority_lists(node_id, priority_suffixes)
  local others = {}
  for _, priority_suffix in ipairs(priority_suffixes) do
    if priority_suffix ~= '' then others[#others + 1] = key.node_queue(node_id) .. priority_suffix end
  end
  if #others == 0 or redis.call('EXISTS', unpack(others)) == 0 then return end
  local left = MOST_MERGED
  for _, list in ipairs(others) do
    while left > 0 and bytes_left > 0 and move_next_message(list, node_id) do
      left = left - 1
    end
  end
end
