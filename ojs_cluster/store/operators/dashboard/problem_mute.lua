-- Mutes a problem, or ends that.
-- Post: the problem is muted until ARGV[2], or it is not muted.
-- Memory: allow-oom; a mute has up to 4 KiB, and there are at most ARGV[4].
-- KEYS: 1 meta problem_mutes.
-- ARGV: 1 the id of the problem, 2 when the mute ends (ms), '0' for the end of the problem, 3 why, as JSON, or '' to
--       end the mute, 4 maximum number of mutes.
-- Returns: 1 when it was changed, 0 when it was not muted, -1 when there are too many
--@include now
local mutes, id = KEYS[1], ARGV[1]
if ARGV[3] == '' then return redis.call('HDEL', mutes, id) end
if redis.call('HEXISTS', mutes, id) == 0 and redis.call('HLEN', mutes) >= tonumber(ARGV[4]) then return -1 end
redis.call('HSET', mutes, id, string.format('%.0f %s %s', now, ARGV[2], ARGV[3]))
return 1
