-- Reads whether a tag has data of versions whose layout had no number of its own (unnumbered.py).
-- Memory: no-writes.
-- KEYS: 1 schema of the shard or of the meta tag.
-- ARGV: 1 names of keys that only those versions wrote, separated by blanks,
--       2.. '<index> <prefix> <field>...': an index of records, the prefix of their keys, and fields that only those
--       versions wrote. The first record of the index is read.
-- Returns: the first key or field that is found, or ''
--@include keys
for name in string.gmatch(ARGV[1], '%S+') do
    if redis.call('EXISTS', PREFIX .. name) == 1 then return PREFIX .. name end
end
for i = 2, #ARGV do
    local index, prefix, fields = string.match(ARGV[i], '^(%S+) (%S+) (.*)$')
    -- pcall: a damaged key is no reason to refuse the start.
    local record = redis.pcall('ZRANGE', PREFIX .. index, 0, 0)[1]
    for field in string.gmatch(record and fields or '', '%S+') do
        local key = PREFIX .. prefix .. record
        if redis.pcall('HEXISTS', key, field) == 1 then return key .. ' ' .. field end
    end
end
return ''
