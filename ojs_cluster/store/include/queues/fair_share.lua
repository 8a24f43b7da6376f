-- The order of a queue with a fair share between tenants. tenant_turns.lua explains it.
--@include tenant_turns
local fair = {} -- one table of functions, because a script may have 200 locals

-- Returns the first job of the queue that was not returned yet, its score and '', if it has no tenant.
function fair.next_without_tenant(queue)
    while not queue.head_id or queue.shown[queue.head_id] do
        local id, score, set = merge.next_row(queue.rows_in_order)
        if not id then return end
        queue.head_id, queue.head_score = id, score
        if set.name and not queue.shown[id] then queue.parked_in[id] = set end
        queue.head_tenant = redis.call('HGET', job_key(id), F.tenant)
        if queue.head_tenant then join(queue, queue.head_tenant) end
    end
    if not queue.head_tenant then return queue.head_id, queue.head_score, '' end
end

-- Returns the next job of a tenant and its score; nil when there is none.
function fair.next_of_turn(queue, turn)
    while stale_left > 0 do
        turn.rows = turn.rows or merge.open(merge.sets_of(queue, turn.tenant))
        local id, score, set = merge.next_row(turn.rows)
        if not id then return end
        turn.has_jobs = true
        if not queue.shown[id] then
            if redis.call('ZSCORE', set.origin, id) then
                if set.name then queue.parked_in[id] = set end
                return id, score
            end
            stale_left = stale_left - 1
            queue.stale[#queue.stale + 1] = {set, id}
        end
    end
end

-- Returns the next job of the tenant that has the lowest turn, its score and tenant; nil when no tenant has one.
function fair.next_of_tenants(queue)
    while true do
        local lowest
        for i, turn in ipairs(queue.turns) do
            if not lowest or turn.at < queue.turns[lowest].at then lowest = i end
        end
        local turn = queue.turns[lowest]
        if queue.horizon < math.huge and (not turn or turn.at > queue.horizon) then read_turns(queue)
        elseif not turn then return
        else
            local id, score = fair.next_of_turn(queue, turn)
            if id then
                queue.turn_of[id] = turn.at
                turn.at = turn.at + turn_step(turn.tenant)
                return id, score, turn.tenant
            end
            queue.ended[#queue.ended + 1] = turn
            table.remove(queue.turns, lowest)
        end
    end
end

-- Returns up to `size` further jobs of the queue in the order of the turns, as ZRANGE WITHSCORES does.
function fair.rows(queue, size)
    local rows = {}
    while #rows < 2 * size do
        local id, score, tenant = fair.next_without_tenant(queue)
        if not id then id, score, tenant = fair.next_of_tenants(queue) end
        -- So many tenants have a turn and no jobs that the others were not reached. The next fetches reach them.
        if not id then id, score, tenant = queue.head_id, queue.head_score, queue.head_tenant end
        queue.at_end = not id or queue.shown[id]
        if queue.at_end then break end
        queue.shown[id] = true
        rows[#rows + 1], rows[#rows + 2] = id, score
        queue.rows[#queue.rows + 1] = {id = id, score = tonumber(score), tenant = tenant}
    end
    return rows
end
