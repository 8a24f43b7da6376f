-- Reads the changes of the partition table since a version, or a page of the whole table. Changes nothing.
-- Memory: no-writes.
-- KEYS: 1 meta partitions, 2 meta partition_changes.
-- ARGV: 1 the version of the table that the caller has, '' for none, 2 maximum number of changes and approximate
--       size of a page, 3 cursor of the next page, '' for none.
-- Returns: {now, version} when the caller has this version; the version is '' while there is no table
--          {now, version, '', queues and entries, a queue without entry has ''}: the changes up to this version;
--          '+' instead of '' if there are more
--          {now, version, next cursor ('0' after the last page), queues and entries, and '#' with the version, number
--          of fields of the table}: a page, when the log of changes does not have all changes since the caller's version
--@include now
local table_key, changes_key, known, limit, cursor = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2]), ARGV[3]
local version = redis.call('HGET', table_key, '#') or ''
if cursor == '' then
    if version == known then return {now, version} end
    -- The caller's version is in the log, unless it is older than the log, or a failover has lost it. The current one
    -- is the last of the log, unless a process of an earlier version has changed the table.
    local last = redis.call('ZRANGE', changes_key, -1, -1, 'WITHSCORES')[2]
    if last == version and known ~= '' and redis.call('ZCOUNT', changes_key, known, known) > 0 then
        local rows = redis.call('ZRANGEBYSCORE', changes_key, '(' .. known, '+inf', 'LIMIT', 0, limit)
        local queues, seen, reached = {}, {}, nil
        for i = 1, #rows do
            local at, queue = string.match(rows[i], '^(%d+) (.*)$')
            if not seen[queue] then queues[#queues + 1], seen[queue] = queue, true end
            reached = at
        end
        local entries, reply = redis.call('HMGET', table_key, unpack(queues)), {}
        for i, queue in ipairs(queues) do reply[2 * i - 1], reply[2 * i] = queue, entries[i] or '' end
        return {now, reached, reached == version and '' or '+', reply}
    end
    cursor = '0'
end
local page = redis.call('HSCAN', table_key, cursor, 'COUNT', limit)
return {now, version, page[1], page[2], redis.call('HLEN', table_key)}
