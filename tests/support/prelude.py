"""Lua that runs before every script in tests and finds faults that a cluster shows only rarely.

A script must not touch a key of another hash tag. A cluster refuses only a key of another node. It
accepts a key of another slot of the same node, and a standalone server accepts every key. Such a
script would fail only after the next slot migration.

A script must not stop half way while a slot migrates key by key
(``store/include/base/preflight.lua``):

- Every key is declared or read before the first write. Reading means: by a command on two keys,
  which a migrating slot refuses unless both exist, or by a command that finds the key. A single key
  that is not found may be on the other node.
- A key that the script has emptied is not touched again: it would be refused as absent.
"""

from __future__ import annotations

MARK = "key outside the declared tag"
NOT_READ = "key not read before the first write"
EMPTIED = "key that the script has emptied"
"""Parts of the errors for a refused key."""

PRELUDE = (
    r"""
local redis = (function(server)
    local begin = string.match(KEYS[1] or '', '^ojs:{[^{}]+}:')
    local was_read, emptied, wrote = {}, {}, false
    local function refuse(why, key) error(why .. ': ' .. tostring(key), 0) end
    local function check_tag(key)
        if not begin or type(key) ~= 'string' or string.sub(key, 1, #begin) ~= begin then
            refuse('"""
    + MARK
    + r"""', key)
        end
    end
    for _, key in ipairs(KEYS) do
        check_tag(key)
        was_read[key] = true
    end
    local many = {DEL = true, UNLINK = true, EXISTS = true, TOUCH = true}
    local keyless = {TIME = true}
    local reads = {}
    for name in string.gmatch('EXISTS TOUCH TYPE GET HGET HGETALL HMGET HEXISTS HLEN HSTRLEN '
        .. 'ZSCORE ZMSCORE ZCARD ZCOUNT ZRANGE ZREVRANGE ZRANGEBYSCORE XREVRANGE', '%u+') do
        reads[name] = true
    end
    local function is_there(key) return server.call('EXISTS', key) == 1 end

    local function read(run, command, keys, ...)
        for _, key in ipairs(keys) do
            if emptied[key] then refuse('"""
    + EMPTIED
    + r"""', key) end
            if wrote and not was_read[key] then refuse('"""
    + NOT_READ
    + r"""', key) end
        end
        for _, key in ipairs(keys) do
            if key ~= keys[1] or (keys[2] and keys[2] ~= key) or is_there(key) then
                was_read[key] = true
            end
        end
        return run(command, ...)
    end

    local function write(run, command, keys, ...)
        wrote = true
        read(function() end, command, keys)
        local before = {}
        for i, key in ipairs(keys) do before[i] = is_there(key) end
        local reply = run(command, ...)
        for i, key in ipairs(keys) do emptied[key] = before[i] and not is_there(key) end
        return reply
    end

    local function guarded(run)
        return function(command, ...)
            command = string.upper(command)
            if keyless[command] then return run(command, ...) end
            local keys = many[command] and {...} or {(...)}
            for _, key in ipairs(keys) do check_tag(key) end
            if command == 'SPUBLISH' then return run(command, ...) end
            return (reads[command] and read or write)(run, command, keys, ...)
        end
    end
    return {call = guarded(server.call), pcall = guarded(server.pcall)}
end)(redis)
"""
)
"""The first argument of a command is its key. SPUBLISH has a channel instead, which must carry the
tag and is never refused during a migration. DEL and similar commands have only keys.
"""
