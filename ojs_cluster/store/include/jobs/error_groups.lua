-- Counts failed attempts by queue, type of the error and normalised message. A script collects its failures, so
-- equal ones are one write. The groups of a shard are bounded: a new group replaces the one that failed last
-- the longest time ago.
-- Group: queue, type and message as JSON text without quotes, separated by line feeds. Its value is
-- '<count> <ms of the first> <ms of the last> <id of the last job>'.
local MAX_ERROR_GROUPS, MAX_ERROR_MESSAGE = 200, 160
local failed_groups = {} -- group -> {count, id of the last job}

-- Returns the JSON text of the string that starts at `from`, behind its quote, cut after a number of bytes.
local function json_text(json, from)
    local position, last = from, math.min(#json, from + MAX_ERROR_MESSAGE - 1)
    while position <= last do
        local byte = string.byte(json, position)
        if byte == 34 then break end -- a quote ends the string
        position = position + (byte == 92 and 2 or 1) -- a backslash escapes the next byte
    end
    return (string.gsub(string.sub(json, from, position - 1), '\\u%x?%x?%x?$', ''))
end

-- Replaces the digits of \uXXXX escapes by letters, or back, so that an escape is no word with digits. The mark
-- behind the letters cannot be in JSON text.
local LETTERS, DIGITS = {}, {}
for digit = 0, 9 do
    local letter = string.char(71 + digit) -- from G, which is no hex digit
    LETTERS[tostring(digit)], DIGITS[letter] = letter, tostring(digit)
end
local function hide_escape(hex)
    return '\\u' .. string.gsub(hex, '%d', LETTERS) .. '\1'
end
local function show_escape(hidden)
    return '\\u' .. string.gsub(hidden, '%u', DIGITS)
end

-- Returns a message without what differs between failures of one kind: words with a digit (numbers, addresses,
-- ids) become '*'.
local function normalise(message)
    message = string.gsub(message, '\\u(%x%x%x%x)', hide_escape)
    message = string.gsub(message, '%x+%-%x+%-%x+%-%x+%-%x+', '*') -- UUIDs
    message = string.gsub(message, '%w*%d%w*', '*')
    message = string.gsub(message, '%*[%*%.:]+', '*')
    return (string.gsub(message, '\\u(%a%a%a%a)\1', show_escape))
end

local function count_error(key, job, error)
    local kind = string.match(error, '^{"code":"[^"\\]*","type":"([^"\\]*)"') or 'unknown'
    local _, start = string.find(error, '"message":"', 1, true)
    local message = start and normalise(json_text(error, start + 1)) or ''
    local group = job[F.queue] .. '\n' .. kind .. '\n' .. message
    local known = failed_groups[group] or {0}
    failed_groups[group] = {known[1] + 1, job_id_of(key)}
end

-- Writes the collected failures. The caller has read both keys (preflight_failures).
local function flush_error_groups()
    for group, failed in pairs(failed_groups) do
        local count, first = string.match(redis.call('HGET', ERROR_GROUPS, group) or '', '^(%d+) (%d+) ')
        redis.call('HSET', ERROR_GROUPS, group, string.format('%.0f %s %.0f %s',
            (tonumber(count) or 0) + failed[1], first or string.format('%.0f', now), now, failed[2]))
        redis.call('ZADD', ERROR_GROUP_TIMES, now, group)
    end
    if not next(failed_groups) then return end
    local extra = redis.call('ZCARD', ERROR_GROUP_TIMES) - MAX_ERROR_GROUPS
    if extra <= 0 then return end
    for _, group in ipairs(redis.call('ZRANGE', ERROR_GROUP_TIMES, 0, extra - 1)) do
        redis.call('ZREM', ERROR_GROUP_TIMES, group)
        redis.call('HDEL', ERROR_GROUPS, group)
    end
end
