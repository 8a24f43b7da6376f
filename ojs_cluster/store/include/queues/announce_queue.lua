-- A job enters a queue otherwise than by an enqueue. The queue may have been retired since, and its
-- partition here closed: its name is owed to the registry, which makes workers look here again, too
-- (store/queues/registry.py). `listed`: that is so only when the queue's hash had gone.
local announced_queues = {}
local function announce_queue(queue, listed)
    local gone = redis.call('HSETNX', queue_counters_key(queue), 'created', now) == 1
    if announced_queues[queue] or listed and not gone then return end
    announced_queues[queue] = true
    append_effect('queue', queue)
end
