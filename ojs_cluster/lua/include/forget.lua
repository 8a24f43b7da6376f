-- Removes every trace of a terminal or waiting job from its shard.
local function forget(id, key, job)
    local queue, state = job[F.queue], job[F.state]
    if state == 'available' then
        redis.call('ZREM', available_key(queue), id)
    else
        count(queue, state, -1)
    end
    if job[F.dead] then
        redis.call('ZREM', DEAD, id)
        redis.call('ZREM', dead_key(queue), id)
    end
    redis.call('ZREM', FINISHED, id)
    if job[F.expires] then redis.call('ZREM', EXPIRING, id) end
    redis.call('DEL', key)
end
