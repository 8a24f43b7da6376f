-- Transition: due -> waiting for an unreachable shard, for outbox entries of one shard.
-- Pre:  the entry is still in the index in which it was read. Otherwise it was delivered since, and nothing
--       changes.
-- Post: the entries wait for the unreachable shard, which will be tried again. If entries waited for this shard
--       before, the time of the next attempt is unchanged.
-- Memory: allow-oom; per entry 100 bytes.
-- KEYS: 1 the index of the entries: outbox_due or an outbox_waiting, 2 outbox_waiting of the unreachable
--       shard, 3 outbox_blocked_shards.
-- ARGV: 1 index of the unreachable shard, 2 time until the shard is tried again (ms), then numbers of entries.
-- Returns: time of the next attempt (ms), if no entries waited for the shard before
--@include now long_lists
local INDEX, WAITING, BLOCKED_SHARDS = KEYS[1], KEYS[2], KEYS[3]
local shard, pause_ms = ARGV[1], ARGV[2]
local moved = {}
for i = 3, #ARGV do
    if redis.call('ZSCORE', INDEX, ARGV[i]) then moved[#moved + 1] = ARGV[i] end
end
if #moved > 0 then
    redis.call('ZADD', BLOCKED_SHARDS, 'NX', now + pause_ms, shard)
    for _, number in ipairs(moved) do redis.call('ZADD', WAITING, now, number) end
    -- Last: a set that becomes empty is deleted (see preflight.lua).
    call_in_slices('ZREM', INDEX, moved)
end
return now + pause_ms
