-- Keeps in the job's hash what a transition overwrites in its other fields: an attempt that has not completed
-- the job, a manual retry, a cancellation, another priority. Transitions whose facts the job's own fields keep
-- (enqueue, fetch, ack) record nothing, so the history of a plain job costs nothing (docs/adr/048).
-- The field holds '<dropped> <kept>\n', then one JSON object per line, the oldest first (see
-- store/engine/jobs/history_entries.py).
-- `history_kept`: maximum number of entries, 0 to record nothing. `history_cause`: further JSON members that
-- name who or what has caused the transition, each after a comma; '' for none.
local MAX_HISTORY_BYTES = 16384
local history_kept, history_cause = 0, ''

-- Reads the setting and the cause of a script: '<history_kept> <history_cause>'.
local function set_history(arg)
    local kept, cause = string.match(arg, '^(%d+) ?(.*)$')
    history_kept, history_cause = tonumber(kept) or 0, cause or ''
end

-- Appends an entry. `more`: JSON members of this kind, each after a comma. The oldest entries make room.
local function record_history(key, job, kind, more)
    if history_kept == 0 then return end
    local old = job[F.history] or job.partial and redis.call('HGET', key, F.history) or ''
    local dropped, entries, from = string.match(old, '^(%d+) (%d+)\n().*\n$')
    dropped, entries = tonumber(dropped) or 0, tonumber(entries) or 0
    from = from or #old + 1 -- damaged: nothing of it is kept
    local entry = string.format('{"k":"%s","at":%.0f', kind, now) .. more .. history_cause .. '}\n'
    while entries > 0 and (entries >= history_kept or #old - from + 1 + #entry > MAX_HISTORY_BYTES) do
        local line_end = string.find(old, '\n', from, true)
        if not line_end then entries, from = 1, #old end
        dropped, entries, from = dropped + 1, entries - 1, (line_end or #old) + 1
    end
    job[F.history] = string.format('%.0f %.0f\n', dropped, entries + 1) .. string.sub(old, from) .. entry
    redis.call('HSET', key, F.history, job[F.history])
end

-- Returns the members that describe the attempt of an active job: its number, when the job was enqueued for it
-- and when it started, in ms, and its worker.
local function attempt_members(job)
    return string.format(',"a":%s,"n":%s,"st":%s,"w":%s', job[F.attempt], job[F.enqueued] or job[F.created],
        job[F.started], cjson.encode(job[F.worker] or ''))
end

-- Returns the member with the error of a failed attempt, shortened. error: see record_error in fail_attempt.lua.
-- A longer message is cut behind a whole character.
local function error_member(error)
    local MAX_BYTES, MAX_MESSAGE_BYTES = 512, 200
    if #error <= MAX_BYTES then
        -- A line break between its members would end the entry.
        if string.find(error, '\n', 1, true) or string.find(error, '\r', 1, true) then
            error = string.gsub(error, '[\r\n]', ' ')
        end
        return ',"e":' .. error .. '}'
    end
    local head, from = string.match(error, '^({"code":"[^"\\]*","type":"[^"\\]*","message":")()')
    if not head then return ',"e":{"code":"large_error","truncated":true}' end
    local stop = from
    while stop < from + MAX_MESSAGE_BYTES and string.find(error, '^[^"]', stop) do
        -- An escape is one character, and so is an escaped pair of surrogates.
        if string.find(error, '^\\u[dD][89abAB]', stop) then stop = stop + 12
        elseif string.find(error, '^\\u', stop) then stop = stop + 6
        elseif string.find(error, '^\\', stop) then stop = stop + 2
        else stop = stop + 1 end
    end
    while string.find(error, '^[\128-\191]', stop) do stop = stop - 1 end
    return ',"e":' .. string.sub(error, 1, stop - 1) .. '","truncated":true}'
end
