"""Lua put before every script in tests: no key of another hash tag may be touched.

A cluster refuses only a key that lives on another node. A key of another slot of the same node
passes there, and on a standalone server everything does; either would break at the next slot
migration, long after the tests were green.
"""

from __future__ import annotations

MARK = "key outside the declared tag"
"""Part of the error that a refused key raises."""

PRELUDE = (
    r"""
local redis = (function(server)
    local begin = string.match(KEYS[1] or '', '^ojs:{[^{}]+}:')
    local function check(key)
        if not begin or type(key) ~= 'string' or string.sub(key, 1, #begin) ~= begin then
            error('"""
    + MARK
    + r""": ' .. tostring(key))
        end
    end
    for _, key in ipairs(KEYS) do check(key) end
    local many = {DEL = true, UNLINK = true, EXISTS = true, TOUCH = true}
    local none = {TIME = true}
    local function guarded(run)
        return function(command, ...)
            command = string.upper(command)
            if many[command] then
                for _, key in ipairs({...}) do check(key) end
            elseif not none[command] then
                check((...))
            end
            return run(command, ...)
        end
    end
    return {call = guarded(server.call), pcall = guarded(server.pcall)}
end)(redis)
"""
)
"""The first argument of a command is its key (or, for SPUBLISH, its channel, which must carry the
tag as well); of DEL and its like every argument is."""
