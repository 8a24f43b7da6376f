-- Transition: (nothing) -> as it was when it was saved, for one workflow of a backup.
-- Pre:  there is none of the id.
-- Post: record, definitions and results are stored, those that came before it (workflow_portion.lua)
--       stay. What may start of it, or has to be cancelled, is owed.
-- Memory: deny-oom.
-- KEYS: 1 wf:, 2 wd:, 3 wr:, 4..8 the shard's wfs, wfin, out, ob, wfrun.
-- ARGV: 1 id, 2 created (ms), 3 removal (ms, '' while it runs), 4 kind of effect owed ('' none),
--       5 number of fields, 6 number of definitions, then names and values of the fields, numbers and
--       values of the definitions, and of the results.
-- Returns: {'ok', effects} | {'exists'}
--@include keys now read_job set_deadline append_effect stalled_after
if redis.call('HEXISTS', KEYS[1], 'state') == 1 then return {'exists'} end
local definitions = 7 + 2 * ARGV[5]
local results = definitions + 2 * ARGV[6]
call_in_slices('HSET', KEYS[1], {unpack(ARGV, 7, definitions - 1)})
call_in_slices('HSET', KEYS[2], {unpack(ARGV, definitions, results - 1)})
call_in_slices('HSET', KEYS[3], {unpack(ARGV, results)})
redis.call('ZADD', KEYS[4], ARGV[2], ARGV[1])
if ARGV[4] ~= '' then append_effect(ARGV[4], ARGV[1]) end
if ARGV[3] ~= '' then redis.call('ZADD', KEYS[5], ARGV[3], ARGV[1])
else
    redis.call('ZREM', KEYS[5], ARGV[1])
    redis.call('ZADD', KEYS[8], now + CHECK_MS, ARGV[1])
end
return {'ok', effects}
