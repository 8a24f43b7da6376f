-- Find the commands that the Redis user may not run in scripts. The script is declared read-only, so Redis
-- refuses every write. Redis checks the user's right before that, so the script can try commands without
-- effect.
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
