-- Transition: (nothing) -> as it was when it was saved, for one workflow of a backup.
-- Pre:  there is none of the id.
-- Post: record, definitions and results are stored, those that came before it (restore_results.lua)
--       stay. What may start of it, or has to be cancelled, is owed.
-- Memory: deny-oom.
-- KEYS: 1 wf:, 2 wd:, 3 wr:, 4..8 the shard's wfs, wfin, out, ob, wfrun.
-- ARGV: 1 id, 2 created (ms), 3 removal (ms, '' while it runs), 4 kind of effect owed ('' none),
--       5 number of fields, 6 number of definitions, 7 number of results, then names and values of
--       the fields, the definitions, numbers and values of the results.
-- Returns: {'ok', effects} | {'exists'}
--@include keys now job deadline effect unfinished
if redis.call('EXISTS', KEYS[1]) == 1 then return {'exists'} end
local at = 7
for _ = 1, tonumber(ARGV[5]) do
    redis.call('HSET', KEYS[1], ARGV[at + 1], ARGV[at + 2])
    at = at + 2
end
for i = 1, tonumber(ARGV[6]) do
    redis.call('HSET', KEYS[2], i - 1, ARGV[at + 1])
    at = at + 1
end
for _ = 1, tonumber(ARGV[7]) do
    redis.call('HSET', KEYS[3], ARGV[at + 1], ARGV[at + 2])
    at = at + 2
end
redis.call('ZADD', KEYS[4], ARGV[2], ARGV[1])
if ARGV[4] ~= '' then owe(ARGV[4], ARGV[1]) end
if ARGV[3] ~= '' then redis.call('ZADD', KEYS[5], ARGV[3], ARGV[1])
else
    redis.call('ZREM', KEYS[5], ARGV[1])
    redis.call('ZADD', KEYS[8], now + CHECK_MS, ARGV[1])
end
return {'ok', effects}
