-- Records that a master has lost the data of some tags.
-- Post: losses has these tags, and an earlier loss of the same tags is replaced.
-- Memory: allow-oom; adds 100 bytes per tag.
-- KEYS: 1 meta losses.
-- ARGV: 1 ms for which losses are kept, 2 address of the master, 3.. indexes of the tags.
-- Returns: 1
--@include now
local value = string.format('%.0f %s', now, ARGV[2])
for i = 3, #ARGV do redis.call('HSET', KEYS[1], ARGV[i], value) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
