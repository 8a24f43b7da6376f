-- Which jobs a fetch takes. `queues` and `jobs` are those of fetch_any.lua.

-- Reads the heads of the queues, in order, as far as it takes to find enough jobs that can run:
-- ids and queues to take them from; and whether it gave up before that. The first scan loads the
-- jobs. A second one goes no further, as what was promoted in between only comes before or between
-- them: it meets nothing unseen.
local function scan(queues, jobs, wanted)
    local found, live, bytes, budget = {}, 0, 0, wanted + 256
    begin_pass()
    for _, queue in ipairs(queues) do
        local from, most = 0, live + room(queue.gate.meter, wanted - live)
        local open = not queue.gate.shut
        queue.visited = open and live < most
        while open and live < most and budget > 0 and bytes < MOST_BYTES do
            local size = math.min(most - live, budget)
            local ids = redis.call('ZRANGE', queue.available, from, from + size - 1)
            for _, id in ipairs(ids) do
                if bytes >= MOST_BYTES then break end
                if jobs[id] == nil then
                    jobs[id] = load_job(job_key(id)) or false
                    if jobs[id] and jobs[id][F.limit] then look_at_home(jobs[id]) end
                end
                local job = jobs[id]
                local alive = job and (not job[F.expires] or tonumber(job[F.expires]) > now)
                local starts = alive and may_start(job)
                if starts then live, bytes = live + 1, bytes + size_of(job) end
                table.insert(found, {id = id, queue = queue, job = job, alive = alive, starts = starts})
            end
            open, from, budget = #ids == size, from + size, budget - size
        end
        queue.last = (live >= most or bytes >= MOST_BYTES) and #found > 0 and found[#found].id
        if live >= wanted or bytes >= MOST_BYTES then break end
    end
    return found, budget <= 0 and live < wanted
end
