-- Appends the audit entries of one process to one of the two audit streams.
-- Post: the entries are the stream's newest, in their order, unless the batch was there already. The
--       stream has no more entries than are kept, none that is older than they are kept, and ends by
--       itself when nothing is appended for that long.
-- Memory: allow-oom; a stream of 10 000 entries of 2 KiB at most.
-- KEYS: 1 the stream (audit or audit:refused).
-- ARGV: 1 entries kept, 2 ms for which they are kept, 3 name of the batch, 4 '1' when its outcome is
--       unknown and it is sent again, 5.. entries as JSON.
-- Returns: entries appended; 0 for a batch that is there
--@include now
local IN_SIGHT = 500 -- entries that other processes may have appended since the first try
if ARGV[4] == '1' then
    for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', IN_SIGHT)) do
        if entry[2][2] == ARGV[3] then return 0 end
    end
end
for i = 5, #ARGV do
    redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[1], '*', 'b', ARGV[3], 'e', ARGV[i])
end
redis.call('XTRIM', KEYS[1], 'MINID', string.format('%d', now - ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return #ARGV - 4
