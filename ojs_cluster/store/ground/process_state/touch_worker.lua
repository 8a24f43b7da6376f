-- Records a heartbeat or a fetch of a worker, or a directive of an operator for it.
-- Pre:  a directive needs a known worker.
-- Post: the time of the heartbeat or fetch is recorded. A worker with a steady heartbeat is in `watched` with
--       the time at which it is presumed dead: after a silence of three heartbeat gaps, at least the minimum
--       silence. A heartbeat is steady after three heartbeats in a row with a gap of at most a minute. Other
--       workers are never presumed dead; only their leases expire. The same holds for a worker that terminates
--       and reports no active job.
-- Memory: allow-oom; adds 9 KiB per new worker, of which a shard keeps 10 000.
-- KEYS: 1 worker, 2 workers, 3 watched.
-- ARGV: 1 worker id, 2 'heartbeat' | 'fetch' | 'directive', 3 minimum silence before death (ms),
--       4 maximum number of records per shard, then for heartbeat: 5 state, 6 number of active jobs, 7 other
--       values of the worker as JSON; for directive: 5 directive ('' removes it).
-- Returns: {now, directive, state reported, time at which its quiet flags were set, one per shard (ms), or '0'}
--       or {'missing'} for a directive to an unknown worker
--@include now preflight remove_many
local WORKER, WORKERS, WATCHED = KEYS[1], KEYS[2], KEYS[3]
local id, source, min_silence, max_records = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local record = redis.call('HMGET', WORKER, 'state', 'directive', 'quiet_flag_at', 'last_heartbeat',
    'heartbeat_gap', 'heartbeats', 'active')
local state, directive, quiet_flag_at = record[1] or 'running', record[2] or '', record[3] or '0'
local last_heartbeat, active = tonumber(record[4] or ''), record[7]
local gap, heartbeats = tonumber(record[5] or '') or 0, tonumber(record[6] or '') or 0
if source == 'directive' then
    if redis.call('EXISTS', WORKER) == 0 then return {'missing'} end
    redis.call('HSET', WORKER, 'directive', ARGV[5])
    return {now, ARGV[5], state, quiet_flag_at}
end
local oldest, records = redis.call('ZRANGE', WORKERS, 0, 0)[1], redis.call('ZCARD', WORKERS)
if not redis.call('ZSCORE', WORKERS, id) then records = records + 1 end
local full = records > max_records and oldest and oldest ~= id
local oldest_record = full and string.sub(WORKER, 1, #WORKER - #id) .. oldest
if full then
    preflight_key(oldest_record)
    run_preflight()
end
redis.call('HSETNX', WORKER, 'first_seen', now)
redis.call('HSET', WORKER, 'last_seen', now)
redis.call('ZADD', WORKERS, now, id)
if source == 'heartbeat' then
    -- The gap follows the time between two heartbeats. It grows at once, and shrinks by at most a quarter per
    -- heartbeat: one heartbeat soon after another must not shorten the silence that is allowed.
    if last_heartbeat then gap = math.max(now - last_heartbeat, math.floor(gap * 0.75)) end
    heartbeats = gap > 60000 and 1 or heartbeats + 1
    state, active = ARGV[5] ~= '' and ARGV[5] or 'running', ARGV[6]
    redis.call('HSET', WORKER, 'last_heartbeat', now, 'heartbeat_gap', gap, 'heartbeats', heartbeats,
        'state', state, 'active', active, 'info', ARGV[7])
end
if state == 'terminate' and active == '0' then
    remove_member(WATCHED, id)
elseif heartbeats >= 3 then
    redis.call('ZADD', WATCHED, now + math.max(min_silence, 3 * gap), id)
elseif heartbeats == 1 then
    remove_member(WATCHED, id) -- the first heartbeat, or a gap above a minute
end
if full then
    remove_member(WORKERS, oldest)
    remove_member(WATCHED, oldest)
    redis.call('DEL', oldest_record)
end
flush_removals()
return {now, directive, state, quiet_flag_at}
