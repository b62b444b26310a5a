-- include: reindex
-- Pauses or resumes a pool. The nodes of a paused pool finish its jobs and take no more jobs for it, so jobs that ask
-- for it wait. The nodes still serve their other pools. When the pool resumes, waiting jobs take the free slots. A pool
-- stays paused until it is resumed, or until the record of its last node expires.
--
-- KEYS[1] prefix of the scheduler's keys     KEYS[2] prefix of the message lists
-- ARGV[1] times, see include/context.lua
-- ARGV[2] pool
-- ARGV[3] paused, "true" or "false"
--
-- Returns {"OK"}
--         {"EMPTY_POOL", pool}   no node is registered in it

local pool, paused = ARGV.pool, ARGV.paused == 'true'

if paused and redis.call('EXISTS', key.pool_members(pool)) == 0 then return {'EMPTY_POOL', pool} end
write_even_without_memory()
if redis.call(paused and 'SADD' or 'SREM', key.paused(), pool) == 1 then
  emit_event(paused and 'pool_paused' or 'pool_resumed', 'pool', pool)
end
if not paused then assign_in_pools({pool}) end
return {'OK'}
