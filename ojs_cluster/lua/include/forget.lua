-- Removes every trace of a terminal or waiting job from its shard.
local function want_to_forget(job)
    if job[F.state] == 'available' then want(available_key(job[F.queue]))
    else want(queue_key(job[F.queue])) end
    if job[F.dead] then want(dead_key(job[F.queue])) end
end

local function forget(id, key, job)
    local queue, state = job[F.queue], job[F.state]
    if state == 'available' then
        take_out(available_key(queue), id)
    else
        count(queue, state, -1)
    end
    if job[F.dead] then
        take_out(DEAD, id)
        take_out(dead_key(queue), id)
    end
    take_out(FINISHED, id)
    if job[F.expires] then take_out(EXPIRING, id) end
    redis.call('DEL', key)
end
