-- Reads several sorted sets in the order of their scores, as if they were one: the available jobs of a queue, and its
-- parked jobs that a fetch may take.
--@include find_parked parked_names
local merge = {} -- one table of functions, because a script may have 200 locals
function merge.is_earlier(a, b) return a.score < b.score or a.score == b.score and a.id < b.id end

-- Puts a set into the list at the place of its next row, unless it has no more. `list`: sets in the order of these rows.
function merge.place_set(list, set)
    if not set.rows[set.at] then
        local size = set.read == 0 and 1 or 32
        set.rows, set.at = redis.call('ZRANGE', set.key, set.read, set.read + size - 1, 'WITHSCORES'), 1
        set.read = set.read + #set.rows / 2
        if not set.rows[1] then return end
    end
    set.id, set.score, set.at = set.rows[set.at], tonumber(set.rows[set.at + 1]), set.at + 2
    local place = #list + 1
    while place > 1 and merge.is_earlier(set, list[place - 1]) do
        list[place], place = list[place - 1], place - 1
    end
    list[place] = set
end

-- Returns the sets of a queue whose jobs a fetch may take, of one tenant or, for '', of all. `origin`: the set that
-- each member must also be in. `name`: under which its members are parked, nil for the available jobs.
function merge.sets_of(queue, tenant)
    local available = tenant == '' and queue.available or tenant_queue_key(queue.name, tenant)
    local sets = {{key = available, origin = queue.available}}
    local names = queue.parked
    if tenant ~= queue.tenant and names[1] then names = parked_names_of(queue, tenant) end
    for _, name in ipairs(names) do
        sets[#sets + 1] = {key = parked_jobs_key(queue.name, name, tenant), origin = queue.blocked, name = name}
    end
    return sets
end

-- Returns the list of sets that merge.next_row reads.
function merge.open(sets)
    local list = {}
    for _, set in ipairs(sets) do
        preflight_key(set.key)
        set.read, set.rows, set.at = 0, {}, 1
        merge.place_set(list, set)
    end
    return list
end

-- Returns the next id, its score, and its set; nil after the last one.
function merge.next_row(list)
    local set = table.remove(list, 1)
    if not set then return end
    local id, score = set.id, set.rows[set.at - 1]
    merge.place_set(list, set)
    return id, score, set
end

-- Returns up to `size` further jobs of the queue, as ZRANGE WITHSCORES does. An earlier version may leave an available
-- job among the parked ones, so each is returned once.
function merge.rows(queue, size)
    local rows, shown = {}, queue.merged_shown
    while #rows < 2 * size do
        local id, score, set = merge.next_row(queue.rows_in_order)
        if not id then break end
        if not shown[id] then
            shown[id], rows[#rows + 1], rows[#rows + 2] = true, id, score
            if set.name then queue.parked_in[id] = set end
        end
    end
    return rows
end

-- Returns whether a job is in the index of a tenant, but not in its queue (see tenant_queue.lua), or in an index of
-- parked jobs and not blocked.
function merge.is_stale(queue, id)
    if queue.parked_in[id] then return not redis.call('ZSCORE', queue.blocked, id) end
    return queue.source ~= queue.available and not redis.call('ZSCORE', queue.available, id)
end
