-- include: job
-- A node's queue. kombu pushes a message with a priority to a list of its own for each priority step. The
-- scheduler sends no such message to a node, but a caller may: it names the queue.

local MOST_GATHERED = 100  -- messages in one call

-- The node's worker takes from one list. Moves messages from the queue's other lists to the end of that
-- one, the first priority first.
local function gather_queue(node_id, suffixes)
  local others = {}
  for _, suffix in ipairs(suffixes) do
    if suffix ~= '' then others[#others + 1] = key.node_queue(node_id) .. suffix end
  end
  if #others == 0 or redis.call('EXISTS', unpack(others)) == 0 then return end
  local left = MOST_GATHERED
  for _, list in ipairs(others) do
    while left > 0 and bytes_left > 0 and move_next(list, node_id) do
      left = left - 1
    end
  end
end
