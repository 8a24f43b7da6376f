-- Takes the available job of a paused agent out of its queue: it is pending until the agent is resumed
-- (store/features/agents/agent_write.lua). The event is job.held. The caller has read the keys of the queue,
-- and PENDING, before its first write.
local function hold_job(id, key, job)
    remove_from_queue(id, job)
    count_job(job, 'pending', 1)
    redis.call('ZADD', PENDING, job[F.created], id)
    save_job(key, job, F.state, 'pending', F.hold, 'h')
    emit('job.held', id, job)
end
