-- Workers of one shard that have been silent for too long move from watched to lost.
-- Post: each is in `lost` with the ms of its death until `add_dead_letter` says its jobs are recovered, so
--       a scheduler that dies in between leaves the work to the next. When nobody has checked for long,
--       this master may have been away, and no worker could be heard: each is watched once more.
-- Memory: allow-oom; adds 100 bytes per worker.
-- KEYS: 1 the shard's watch, 2 lost, 3 checked.
-- ARGV: 1 limit, 2 floor of the silence in ms, 3 how many of those lost longest are passed over.
-- Returns: {now, ms of the next possible death or -1, lost workers: id, ms of death, 1 when it had said
--          that it terminates, ...}
--@include keys now preflight remove_many lowest_remaining
local UNCHECKED_MS = 15000 -- checks are ten seconds apart at most
local first, last = tonumber(ARGV[3]), ARGV[3] + ARGV[1] - 1
local silent = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
local checked = tonumber(redis.call('GET', KEYS[3]) or '')
local away = checked and now - checked > UNCHECKED_MS
local terminated, again = {}, {}
for _, worker in ipairs(silent) do
    local seen, gap, spared = unpack(redis.call('HMGET', worker_key(worker), 'seen', 'gap', 'spared'))
    if away and seen and (tonumber(spared) or 0) < (tonumber(seen) or 0) then
        again[worker] = math.max(tonumber(ARGV[2]), 3 * (tonumber(gap) or 0))
    end
end
for _, workers in ipairs({silent, redis.call('ZRANGE', KEYS[2], first, last)}) do
    for _, worker in ipairs(workers) do
        local state = redis.call('HGET', worker_key(worker), 'state')
        if not state then preflight_key(worker_key(worker)) end
        terminated[worker] = state == 'terminate' and 1 or 0
    end
end
run_preflight()
redis.call('SET', KEYS[3], now)
for _, worker in ipairs(silent) do
    if again[worker] then
        redis.call('HSET', worker_key(worker), 'spared', now)
        redis.call('ZADD', KEYS[1], now + again[worker], worker)
    else
        remove_member(KEYS[1], worker)
        redis.call('ZADD', KEYS[2], now, worker)
    end
end
local reply = {now, lowest_remaining(KEYS[1]) or -1}
flush_removals()
local lost = redis.call('ZRANGE', KEYS[2], first, last, 'WITHSCORES')
for i = 1, #lost, 2 do
    local at = #reply
    reply[at + 1], reply[at + 2], reply[at + 3] = lost[i], lost[i + 1], terminated[lost[i]] or 0
end
return reply
