-- Registers or removes one schema, or changes how a job type is validated, and tells every process to read the index.
-- Pre:  the index has the version that the caller has read, or already the wanted record.
-- Post: the records of the index and the document agree; a new version of the index.
-- Memory: allow-oom; adds 64 KiB per schema, OJS_SCHEMAS_MAX_BYTES for all together.
-- KEYS: 1 meta job_schemas, 2 meta job_schema_documents.
-- ARGV: 1 the version that the caller has read, 2 channel, 3 field of the record, 4 wanted record ('' none),
--       5 document ('' none, '-' unchanged), 6 bytes of all documents afterwards, then pairs: further field and
--       its value ('' none).
-- Returns: 'ok' | 'changed'
--@include now
local index_key, documents_key = KEYS[1], KEYS[2]
local known_version, field, wanted, document = ARGV[1], ARGV[3], ARGV[4], ARGV[5]
local version = redis.call('HGET', index_key, '#') or ''
if version ~= known_version then
    -- The caller may have lost the reply to its first try.
    if wanted ~= '' and redis.call('HGET', index_key, field) == wanted then return 'ok' end
    return 'changed'
end
redis.call('HLEN', documents_key)
-- A version is never used twice, not even when the hash was deleted in between.
local following = string.format('%.0f', math.max(now, (tonumber(version) or 0) + 1))
redis.call('HSET', index_key, '#', following, '=', ARGV[6])
local function put(key, name, value)
    if value == '' then redis.call('HDEL', key, name) else redis.call('HSET', key, name, value) end
end
put(index_key, field, wanted)
if document ~= '-' then put(documents_key, field, document) end
for index = 7, #ARGV, 2 do put(index_key, ARGV[index], ARGV[index + 1]) end
redis.call('SPUBLISH', ARGV[2], following)
return 'ok'
