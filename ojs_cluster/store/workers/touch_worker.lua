-- A worker's record hears from the worker (heartbeat or fetch) or from an operator (directive).
-- Post: last contact noted; a worker with a steady heartbeat is watched, and presumed dead after
--       three silent intervals (never less than the floor). A worker that heartbeats once by hand
--       is not watched: its jobs live by their leases alone. Nor is one that terminates and says that
--       it runs no job: it may leave.
-- Memory: allow-oom; adds 9 KiB per new worker, of which a shard keeps 10 000.
-- KEYS: 1 the worker's hash, 2..3 the shard's workers, watch.
-- ARGV: 1 worker id, 2 'beat' | 'fetch' | 'direct', 3 floor of the silence in ms,
--       4 records kept per shard, then for beat: 5 state, 6 active count, 7 info JSON;
--       for direct: 5 directive ('' to take it back).
-- Returns: {now, directive, state reported, ms since when it is marked quiet or '0'}
--       or {'missing'} for a directive to an unknown worker
--@include now preflight remove_many
local key, worker = KEYS[1], ARGV[1]
local known = redis.call('HMGET', key, 'state', 'directive', 'quiet', 'beat', 'gap', 'beats', 'active')
if ARGV[2] == 'direct' then
    if redis.call('EXISTS', key) == 0 then return {'missing'} end
    redis.call('HSET', key, 'directive', ARGV[5])
    return {now, ARGV[5], known[1] or 'running', known[3] or '0'}
end
local oldest, records = redis.call('ZRANGE', KEYS[2], 0, 0)[1], redis.call('ZCARD', KEYS[2])
if not redis.call('ZSCORE', KEYS[2], worker) then records = records + 1 end
local full = records > tonumber(ARGV[4]) and oldest and oldest ~= worker
local record = full and string.sub(key, 1, #key - #worker) .. oldest
if full then
    preflight_key(record)
    run_preflight()
end
redis.call('HSETNX', key, 'first', now)
redis.call('HSET', key, 'seen', now)
redis.call('ZADD', KEYS[2], now, worker)
local state, gap, beats = known[1] or 'running', tonumber(known[5] or 0), tonumber(known[6] or 0)
local active = known[7]
if ARGV[2] == 'beat' then
    -- The longest of recent gaps, forgotten slowly: a single late beat must not shorten the watch.
    if known[4] then gap = math.max(now - known[4], math.floor(gap * 0.75)) end
    if beats == 0 or gap > 60000 then beats = 0 end
    beats = beats + 1
    state, active = ARGV[5] ~= '' and ARGV[5] or 'running', ARGV[6]
    redis.call('HSET', key, 'beat', now, 'gap', gap, 'beats', beats, 'state', state,
        'active', active, 'info', ARGV[7])
end
if state == 'terminate' and active == '0' then
    remove_member(KEYS[3], worker)
elseif beats >= 3 then
    redis.call('ZADD', KEYS[3], now + math.max(tonumber(ARGV[3]), 3 * gap), worker)
elseif beats == 1 then
    remove_member(KEYS[3], worker) -- it beat steadily once; that watch is over
end
if full then
    remove_member(KEYS[2], oldest)
    remove_member(KEYS[3], oldest)
    redis.call('DEL', record)
end
flush_removals()
return {now, known[2] or '', state, known[3] or '0'}
