-- Append the audit entries of one process to one of the two audit streams.
-- Post: the entries are the newest of the stream, in their order, unless the batch was stored before.
--       The stream is trimmed to its maximum length and age, and expires after the retention without an append.
-- Memory: allow-oom; a stream of 10 000 entries of 2 KiB at most.
-- KEYS: 1 audit or audit_refused.
-- ARGV: 1 maximum length of the stream, 2 retention (ms), 3 name of the batch, 4 '1' when an earlier try of
--       this batch has an unknown outcome, otherwise '0', 5.. entries as JSON.
-- Returns: number of entries appended; 0 when the batch was stored before
--@include now
-- Number of newest entries among which an earlier try of the batch is searched.
local SEARCHED = 500
local stream, max_entries, retention_ms, batch, is_retry = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if is_retry == '1' then
    for _, entry in ipairs(redis.call('XREVRANGE', stream, '+', '-', 'COUNT', SEARCHED)) do
        if entry[2][2] == batch then return 0 end
    end
end
for i = 5, #ARGV do
    redis.call('XADD', stream, 'MAXLEN', max_entries, '*', 'b', batch, 'e', ARGV[i])
end
redis.call('XTRIM', stream, 'MINID', string.format('%d', now - retention_ms))
redis.call('PEXPIRE', stream, retention_ms)
return #ARGV - 4
