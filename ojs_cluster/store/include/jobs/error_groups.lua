-- Counts failed attempts by queue, type of the error and normalised message. A script collects its failures, so
-- equal ones are one write. The groups of a shard are bounded: a new group replaces the group whose last
-- failure is the oldest.
-- Group: queue, type and message as JSON text without quotes, separated by line feeds. Its value is
-- '<count> <ms of the first> <ms of the last> <id of the last job>'.
-- The server names the type and the message (store/engine/jobs/error_group_names.py). Patterns over a client's
-- text were refused here: their time grew with the square of its length.
local MAX_ERROR_GROUPS = 200
local failed_groups = {} -- group -> {count, key of the last job}

-- kind_and_message: type and message of the group.
local function count_error(key, job, kind_and_message)
    local group = job[F.queue] .. '\n' .. kind_and_message
    local known = failed_groups[group]
    if not known then
        known = {0}
        failed_groups[group] = known
    end
    known[1], known[2] = known[1] + 1, key
end

-- Returns an error that the server itself detects, and its group. `kind`: its code and its type. `more`: further
-- JSON members.
local function server_error(kind, message, more)
    local group = kind .. '\n' .. string.gsub(message, '%d+', '*')
    return string.format('{"code":"%s","type":"%s","message":"%s","retryable":true%s', kind, kind,
        message, more or ''), group
end

-- Writes the collected failures. The caller has read both keys (preflight_failures).
local function flush_error_groups()
    local added = 0
    for group, failed in pairs(failed_groups) do
        local count, first = string.match(redis.call('HGET', ERROR_GROUPS, group) or '', '^(%d+) (%d+) ')
        redis.call('HSET', ERROR_GROUPS, group, string.format('%.0f %s %.0f %s',
            (tonumber(count) or 0) + failed[1], first or string.format('%.0f', now), now, job_id_of(failed[2])))
        added = added + redis.call('ZADD', ERROR_GROUP_TIMES, now, group)
    end
    if added == 0 then return end
    local extra = redis.call('ZCARD', ERROR_GROUP_TIMES) - MAX_ERROR_GROUPS
    if extra <= 0 then return end
    for _, group in ipairs(redis.call('ZRANGE', ERROR_GROUP_TIMES, 0, extra - 1)) do
        redis.call('ZREM', ERROR_GROUP_TIMES, group)
        redis.call('HDEL', ERROR_GROUPS, group)
    end
end
