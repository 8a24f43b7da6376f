-- Removes the losses of a master, because an operator has acknowledged them.
-- Post: losses has no tag with this address.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 meta losses.
-- ARGV: 1 address of the master.
-- Returns: number of removed tags
local losses, address, removed = KEYS[1], ARGV[1], 0
local flat = redis.call('HGETALL', losses)
for i = 1, #flat, 2 do
    if string.match(flat[i + 1], '^%d+ (.*)$') == address then removed = removed + redis.call('HDEL', losses, flat[i]) end
end
return removed
