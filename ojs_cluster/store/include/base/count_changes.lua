-- Collects changes of the counters of queues. change_counters.lua explains the counters and writes the changes.
local counter_changes = {} -- queue -> field -> number to add
local function count(queue, field, by)
    local changes = counter_changes[queue]
    if not changes then
        changes = {}
        counter_changes[queue] = changes
    end
    changes[field] = (changes[field] or 0) + by
end
