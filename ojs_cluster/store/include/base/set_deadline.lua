-- Stores the deadline `at` (ms) of a member in a sorted set. If the deadline is near, and the first in the set,
-- the scheduler is notified. The scheduler checks each shard at least every 10 s, so other deadlines need no
-- message, and an ordinary lease of 120 s costs only one ZADD.
local NEAR_MS = 20000
local function set_deadline(zset, id, at)
    redis.call('ZADD', zset, at, id)
    if at - now < NEAR_MS and redis.call('ZRANGE', zset, 0, 0)[1] == id then
        redis.call('SPUBLISH', SCHEDULE_CHANNEL, string.format('%.0f', at))
    end
end
