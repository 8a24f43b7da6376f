-- The fair share of a queue between tenants, for a fetch of jobs of any tenant (docs/adr/052). The sorted set
-- tenant_turns has the tenants with jobs, by their next turn. A fetch takes the best job of the tenant with the
-- lowest turn, and adds 1 to the turn when the job starts, or 1 divided by the weight of the tenant. A tenant without
-- jobs is removed when it has the lowest turn. So every tenant whose index has a job is in tenant_turns, and some
-- others are, for a short time.
--
-- A job without a tenant starts when it is the first of the queue. A tenant of the first job joins if it has no
-- turn, because a process of an earlier version may have added its jobs.
--
--@include lowest_turns tenant_weights

-- How much one fetch may read, over all of its queues: turns, jobs in indexes that are not in their queue any more,
-- and jobs that are searched for tenants.
local turns_left, stale_left, searches_left = 128, 200, 100

-- Searches the next waiting jobs for tenants, if the option was switched on lately.
local function search_tenants(queue, from)
    if not from or searches_left <= 0 then return end
    if not tonumber(from) or tonumber(from) ~= tonumber(from) then from = '-inf' end -- a damaged field
    local rows = redis.call('ZRANGEBYSCORE', queue.available, '(' .. from, '+inf', 'WITHSCORES', 'LIMIT', 0,
        searches_left)
    for i = 1, #rows, 2 do
        local tenant = redis.call('HGET', job_key(rows[i]), F.tenant)
        if tenant then queue.found[tenant] = true end
    end
    queue.searching, queue.searched_to = true, #rows == 2 * searches_left and rows[#rows]
    searches_left = searches_left - #rows / 2
end

local function add_turn(queue, tenant, at)
    local source = tenant_queue_key(queue.name, tenant)
    preflight_key(source)
    preflight_key(parked_jobs_key(queue.name, '', tenant))
    queue.known[tenant] = true
    queue.turns[#queue.turns + 1] = {tenant = tenant, at = at, source = source}
end

-- Reads the next turns: few for a fetch of one job, and twice as many each time. `horizon`: turns up to this one
-- were read.
local function read_turns(queue)
    local from, size = queue.turns_read, math.min(queue.turns_size, turns_left)
    local rows = size > 0 and redis.call('ZRANGE', queue.turns_key, from, from + size - 1, 'WITHSCORES') or {}
    for i = 1, #rows, 2 do
        if not queue.known[rows[i]] then add_turn(queue, rows[i], tonumber(rows[i + 1])) end
    end
    queue.turns_read, queue.turns_size, turns_left = from + #rows / 2, 2 * size, turns_left - #rows / 2
    queue.first_turn = queue.first_turn or tonumber(rows[2])
    local is_last = #rows < 2 * size or turns_left <= 0
    queue.horizon = is_last and math.huge or tonumber(rows[#rows])
end

local function join(queue, tenant)
    if queue.known[tenant] or redis.call('ZSCORE', queue.turns_key, tenant) then return end
    -- No turn was read if queues before this one had as many as a fetch may read.
    queue.first_turn = queue.first_turn or tonumber(redis.call('ZRANGE', queue.turns_key, 0, 0, 'WITHSCORES')[2])
    queue.joined[tenant] = queue.first_turn or 0
    add_turn(queue, tenant, queue.joined[tenant])
end

-- Begins the first scan of the queue (see select_jobs.lua), before the first write. `tenant`: see fetch_full.lua.
local function begin_turns(queue, wanted, tenant)
    local fair, from = unpack(redis.call('HMGET', queue.counters, 'fair', 'fair_from'))
    if not fair then return end
    queue.turns_key = tenant_turns_key(queue.name)
    preflight_key(queue.turns_key)
    if tenant ~= '' then return find_lowest_turns(queue, tenant) end
    preflight_key(TENANT_WEIGHTS)
    queue.turns, queue.known, queue.joined, queue.ended, queue.stale = {}, {}, {}, {}, {}
    queue.rows, queue.shown, queue.turn_of, queue.found, queue.charged = {}, {}, {}, {}, {}
    queue.turns_read, queue.turns_size = 0, math.min(wanted + 3, 32)
    queue.rows_in_order = merge.open(merge.sets_of(queue, ''))
    search_tenants(queue, from)
    read_turns(queue)
    for name in pairs(queue.found) do join(queue, name) end
end
