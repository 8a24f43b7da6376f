-- Transition: version - 1 -> version, for the layout of the data: its migration begins.
-- Pre: no migration runs. For the grace period no process has reported that it cannot serve the new layout.
-- Post: processes that cannot serve the new layout do not start any more. The position is at its start.
-- Memory: allow-oom; adds 200 bytes.
-- KEYS: 1 schema.
-- ARGV: 1 new layout, 2 grace period (ms), 3 longest time between two calls (ms).
-- Returns: remaining time of the grace period (ms); 0 when the migration has begun
--@include now
-- The grace period counts only while calls succeed. After an outage of this master no process has reported
-- for a while, and that proves nothing.
local schema, version, grace, longest = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local stored = redis.call('HGETALL', schema)
local record, older, since = {}, {}, 0
for i = 1, #stored, 2 do
    record[stored[i]] = stored[i + 1]
    local layout = tonumber(string.match(stored[i], '^seen:(%d+)$') or '')
    if layout and layout < version then
        older[#older + 1] = stored[i]
        since = math.max(since, tonumber(stored[i + 1]) or now)
    end
end
local current = tonumber(record.version)
if current >= version then return 0 end
if current ~= version - 1 or tonumber(record.oldest or current) ~= current then return grace end
local watched = tonumber(record.watched_since)
if not watched or now - tonumber(record.watched_at or 0) > longest then watched = now end
local left = grace - (now - math.max(since, watched))
if left > 0 then
    redis.call('HSET', schema, 'watched_since', string.format('%.0f', watched),
        'watched_at', string.format('%.0f', now))
    return left
end
redis.call('HDEL', schema, 'watched_since', 'watched_at', 'finished', unpack(older))
redis.call('HSET', schema, 'version', version, 'oldest', current, 'position', 0, 'cursor', '', 'changed', 0,
    'started', string.format('%.0f', now))
return 0
