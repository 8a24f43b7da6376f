-- Replaces one record of a hash whose field '#' is the version of all records (versioned_table.py), unless another
-- client has changed it since the caller read it. '' is no record.
-- Returns 'ok', 'changed' or 'full'; after a write also the new version.
--@include now
local function replace_record(key, name, expected, wanted, maximum)
    local record = redis.call('HGET', key, name) or ''
    if record == wanted then return 'ok' end
    if record ~= expected then return 'changed' end
    -- One field of the hash is the version, so `>` and not `>=`.
    if record == '' and redis.call('HLEN', key) > maximum then return 'full' end
    -- A version is never used twice, not even when the hash was deleted in between.
    local version = string.format('%.0f', math.max(now, (tonumber(redis.call('HGET', key, '#')) or 0) + 1))
    redis.call('HSET', key, '#', version)
    if wanted == '' then redis.call('HDEL', key, name) else redis.call('HSET', key, name, wanted) end
    return 'ok', version
end
