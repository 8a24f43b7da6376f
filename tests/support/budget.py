"""Lua that runs before every script in tests and bounds the work of one run.

Redis serves no other client while a script runs. The time of a script is proportional to its
commands and to the bytes that it moves between Lua and Redis. The prelude counts these instead of
measuring time, so the result does not depend on the machine. About 1 us per command and 1 to 2 ms
per MiB give the 10 ms for which one script may block its node (``loadtest/bench/blocking.py``
measures both).
"""

from __future__ import annotations

MOST_COMMANDS = 8000
MOST_BYTES = 5 * 1024 * 1024
OVER = "over the budget of a script"
"""Part of the error that a script raises when it exceeds the budget."""


def budget(commands: int = MOST_COMMANDS, bytes_: int = MOST_BYTES) -> str:
    """Return Lua that stops a script after this many commands, or bytes of values."""
    return f"""
local redis = (function(server)
    local commands, moved = 0, 0
    for _, text in ipairs(ARGV) do moved = moved + #text end
    local function size(value)
        if type(value) == 'string' then return #value end
        if type(value) ~= 'table' then return 0 end
        local sum = 0
        for i = 1, #value do sum = sum + size(value[i]) end
        return sum
    end
    local function counted(run)
        return function(...)
            local reply = run(...)
            commands, moved = commands + 1, moved + size(reply)
            if commands > {commands} or moved > {bytes_} then
                error('{OVER}: ' .. commands .. ' commands, ' .. moved .. ' bytes', 0)
            end
            return reply
        end
    end
    return {{call = counted(server.call), pcall = counted(server.pcall)}}
end)(redis)
"""
