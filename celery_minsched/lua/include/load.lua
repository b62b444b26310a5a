-- include: context
-- The level of a node's load.

local LOAD_LEVELS = 3

-- 0 below a third of 100 %, 1 below two thirds, else 2. With finer levels, noise in the reports decides: the idle nodes
-- that report the least load get most jobs.
local function load_level(load) return math.min(math.floor(load * LOAD_LEVELS / 100), LOAD_LEVELS - 1) end
