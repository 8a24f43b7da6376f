-- Writes or deletes the settings of one tenant, unless another client has changed them since the caller read
-- them.
-- Pre:  the record is the one that the caller expects, or already the wanted one.
-- Post: the record is the wanted one. A tenant with settings is a known tenant; one without is unknown until its
--       next job. The event tenant.created announces the first settings of a tenant.
-- Memory: allow-oom; adds 2 KiB per tenant, for 1000 tenants at most.
-- KEYS: 1 meta tenants, 2 meta known_tenants, 3 meta events.
-- ARGV: 1 events kept, 2 tenant, 3 expected record ('' none), 4 wanted record ('' none), 5 maximum number of tenants
--       with settings.
-- Returns: 'ok' | 'changed' | 'full'
--@include keys now fields append_event set_deadline
local tenants_key, known_key = KEYS[1], KEYS[2]
local tenant, expected, wanted = ARGV[2], ARGV[3], ARGV[4]
local record = redis.call('HGET', tenants_key, tenant) or ''
if record ~= wanted then
    if record ~= expected then return 'changed' end
    -- One field of the hash is the version, so `>` and not `>=`.
    if record == '' and redis.call('HLEN', tenants_key) > tonumber(ARGV[5]) then return 'full' end
    -- A version is never used twice, not even when the hash was deleted in between.
    local version = math.max(now, (tonumber(redis.call('HGET', tenants_key, '#')) or 0) + 1)
    redis.call('HSET', tenants_key, '#', string.format('%.0f', version))
    if wanted == '' then redis.call('HDEL', tenants_key, tenant)
    else redis.call('HSET', tenants_key, tenant, wanted) end
    if record == '' then emit('tenant.created', '', {[F.queue] = '', [F.type] = '', [F.tenant] = tenant}) end
end
if wanted == '' then redis.call('ZREM', known_key, tenant)
else redis.call('ZADD', known_key, now, tenant) end
return 'ok'
