-- Sets a deadline, and notifies the scheduler when it is the shard's next one and near. Far deadlines need
-- no message: the scheduler checks each shard at least every 10 s. So an ordinary lease of 120 s costs
-- one ZADD.
local NEAR_MS = 20000
local function set_deadline(zset, id, at)
    redis.call('ZADD', zset, at, id)
    if at - now < NEAR_MS and redis.call('ZRANGE', zset, 0, 0)[1] == id then
        redis.call('SPUBLISH', SCHEDULE_CHANNEL, string.format('%.0f', at))
    end
end
