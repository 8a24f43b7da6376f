-- A job enters a queue otherwise than by an enqueue. The queue may have been retired since, and its
-- partition here closed: its name is owed to the registry, which makes workers look here again, too
-- (store/queues/registry.py). `listed`: that is so only when the queue's hash had gone.
local enlisted = {}
local function enlist(queue, listed)
    local gone = redis.call('HSETNX', queue_counters_key(queue), 'created', now) == 1
    if enlisted[queue] or listed and not gone then return end
    enlisted[queue] = true
    owe('queue', queue)
end
