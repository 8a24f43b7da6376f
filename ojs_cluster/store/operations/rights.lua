-- Which commands the user may not run in scripts. Redis asks for the right before it refuses the write
-- of a script that has promised to write nothing; so each command is tried, and none does anything.
-- Memory: no-writes.
-- KEYS: 1 any key.
-- ARGV: 1.. commands.
-- Returns: per command that is refused: its name, what Redis says
local refused = {}
for i = 1, #ARGV do
    local name = ARGV[i]
    local args = name ~= 'TIME' and {KEYS[1]} or {}
    local reply
    for _ = 1, 6 do
        reply = redis.pcall(name, unpack(args))
        if type(reply) ~= 'table' or not string.find(reply.err or '', 'umber of arg') then break end
        args[#args + 1] = '0'
    end
    local text = type(reply) == 'table' and reply.err or ''
    if string.find(text, 'ACL failure') or string.find(text, 'user executing the script') then
        refused[#refused + 1] = name
        refused[#refused + 1] = text
    end
end
return refused
