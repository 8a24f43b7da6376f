-- Wakes the fetches that wait for a queue: one that takes any job, and with '*' one of each tenant. Earlier
-- versions read only the plain name.
local function wake_queue(queue)
    redis.call('SPUBLISH', WAKE_CHANNEL, queue)
    redis.call('SPUBLISH', WAKE_CHANNEL, queue .. ' *')
end
