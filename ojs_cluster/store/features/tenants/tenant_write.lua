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
--@include keys now fields append_event set_deadline replace_record
begin_events(ARGV[1])
local known_key = KEYS[2]
local tenant, expected, wanted = ARGV[2], ARGV[3], ARGV[4]
local reply, version = replace_record(KEYS[1], tenant, expected, wanted, tonumber(ARGV[5]))
if reply ~= 'ok' then return reply end
if version and expected == '' then
    emit('tenant.created', '', {[F.queue] = '', [F.type] = '', [F.tenant] = tenant})
end
if wanted == '' then redis.call('ZREM', known_key, tenant)
else redis.call('ZADD', known_key, now, tenant) end
return 'ok'
