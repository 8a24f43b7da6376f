-- The second scan of a queue with a fair share, after due jobs were promoted (see select_jobs.lua).

-- Returns the rows that fair.rows has returned, and then the jobs that were promoted since. Each tenant starts its
-- own in the order of the queue. This runs after the first write, so it reads nothing that was not read before.
local function fair_rows_again(queue, promoted, jobs)
    local all, of_tenant, rows = {}, {}, {}
    for i, row in ipairs(queue.rows) do all[i] = row end
    for _, id in ipairs(promoted) do
        local is_here = jobs[id] and jobs[id][F.queue] == queue.name and not queue.shown[id]
        local score = is_here and redis.call('ZSCORE', queue.available, id)
        if score then all[#all + 1] = {id = id, score = tonumber(score), tenant = jobs[id][F.tenant] or ''} end
    end
    for _, row in ipairs(all) do
        of_tenant[row.tenant] = of_tenant[row.tenant] or {}
        table.insert(of_tenant[row.tenant], row)
    end
    for _, list in pairs(of_tenant) do
        table.sort(list, function(a, b) return a.score < b.score or a.score == b.score and a.id < b.id end)
    end
    for i, slot in ipairs(all) do
        local list = of_tenant[slot.tenant]
        list.at = (list.at or 0) + 1
        rows[2 * i - 1], rows[2 * i] = list[list.at].id, list[list.at].score
    end
    return rows
end
