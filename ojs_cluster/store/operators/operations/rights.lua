-- Find the commands that the Redis user may not run in scripts. The script tries each command. It is declared
-- read-only, so Redis refuses every write, but only after it has checked the user's right.
-- Memory: no-writes.
-- KEYS: 1 any key of the shard.
-- ARGV: 1.. names of commands.
-- Returns: per command that the user may not run: its name, the error of Redis
local MAX_ARGUMENTS = 6
local key = KEYS[1]
local refused = {}
for i = 1, #ARGV do
    local name = ARGV[i]
    local args = name ~= 'TIME' and {key} or {}
    local reply
    -- Redis checks the number of arguments before the right. So arguments are added until it is correct.
    for _ = 1, MAX_ARGUMENTS do
        reply = redis.pcall(name, unpack(args))
        if type(reply) ~= 'table' or not string.find(reply.err or '', 'umber of arg') then break end
        args[#args + 1] = '0'
    end
    local message = type(reply) == 'table' and reply.err or ''
    if string.find(message, 'ACL failure') or string.find(message, 'user executing the script') then
        refused[#refused + 1] = name
        refused[#refused + 1] = message
    end
end
return refused
