-- Announces a queue when a job enters it without an enqueue. retire_queue.lua may have removed the queue, and its
-- partition in this shard may be closed. The effect registers the queue's name and makes workers search this shard
-- again (store/ground/process_state/registry.py). `only_if_removed`: announce only a queue whose hash was removed.
local announced_queues = {}
local function announce_queue(queue, only_if_removed)
    local was_removed = redis.call('HSETNX', queue_counters_key(queue), 'created', now) == 1
    if announced_queues[queue] or only_if_removed and not was_removed then return end
    announced_queues[queue] = true
    append_effect('queue', queue)
end
