-- Replaces one record of a versioned hash, and tells every process to read the hash again.
-- Pre:  the stored record is the expected one, or already the wanted one.
-- Memory: allow-oom; adds 32 KiB per webhook subscription or 3 KiB per queue with defaults, of which there are at
--         most 100 and 1000.
-- KEYS: 1 a hash: meta webhooks or meta queue_defaults.
-- ARGV: 1 name, 2 expected record ('' none), 3 wanted record ('' none), 4 maximum number of records, 5 channel.
-- Returns: 'ok' | 'changed' | 'full'
--@include replace_record
local reply, version = replace_record(KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]))
if version then redis.call('SPUBLISH', ARGV[5], version) end
return reply
