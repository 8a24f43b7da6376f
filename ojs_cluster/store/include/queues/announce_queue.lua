-- Announces a queue that a job enters other than by an enqueue. The queue may have been retired, and its
-- partition here closed. The effect registers the name and makes workers search here again
-- (store/queues/registry.py). `listed`: announce only when the queue's hash was gone.
local announced_queues = {}
local function announce_queue(queue, listed)
    local gone = redis.call('HSETNX', queue_counters_key(queue), 'created', now) == 1
    if announced_queues[queue] or listed and not gone then return end
    announced_queues[queue] = true
    append_effect('queue', queue)
end
