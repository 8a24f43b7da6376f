-- Transition: available -> active, for up to `count` jobs of some queues of one shard; the full path of
-- fetch.lua.
-- Pre:  the worker is not quiet. Jobs are taken only from queues that are not paused and whose limits allow a
--       start. A job that needs a rate limit token is taken if it has one, or if this shard owns the rate
--       limit key and can grant one.
-- Post: each job returned has a new lease: worker, attempt + 1, deadline, lease id. Its start is counted by
--       the limits of its queue and of its rate limit key. A job without its token is blocked, a token is
--       requested, and later jobs are served. Jobs of other types are parked (leave_parked.lua), and parked jobs
--       of the types of the fetch are taken in the order of the queue. Due jobs of the shard are promoted first.
--       Expired jobs are discarded. Jobs of paused agents become pending. Malformed jobs are quarantined; the reaper
--       reports them. The reply ends after the job with which it reaches MAX_REPLY_BYTES, so fewer than `count`
--       large jobs may be returned.
-- Memory: allow-oom; as fetch; per job that is blocked, parked or requests a token 900 bytes.
-- KEYS: 1 due, 2 active, 3 execution_deadlines, 4 expiring, 5 finished, 6 events, 7 quiet_workers, then per
--       queue: queue_counters, queue_available, queue_blocked, token_demand.
-- ARGV: 1 events kept, 2 count, 3 worker id ('' anonymous), 4 lease id prefix,
--       5 requested visibility timeout ms ('' the job's own), 6 default visibility timeout ms,
--       7 ms to keep discarded jobs, 8 this shard, 9 number of idle rate limit keys, which have no pending request,
--       whose jobs request tokens; 0: the best jobs of any key do
--       10 tenant whose jobs are taken, '' for jobs of any tenant and of none,
--       11 types of the jobs that are taken, as in find_parked.lua, '' for any, 12 digest of these types,
--       13 mode of suspects (suspects.lua), then the queue names in order.
-- Returns: a text or a list. fetch.lua describes both.
--   The texts are 'quiet', 'isolated', and 'suspect': the first job is a suspect, and nothing has changed.
--   In the list, 3 is 2 if another call may find more jobs, 1 if it may request more tokens, else 0; plus 4 if suspects
--   were left. 4 also counts the parked jobs that this fetch may take. The fields of a job are names and values.
--@include keys now preflight remove_many read_job change_counters append_event set_deadline
--@include append_effect make_available finish_job remove_from_queue promote_jobs lease_job create_limiters
--@include count_starts queue_limits hold_job
--@include rate_limit_state close_rate_limit local_tokens preflight_blocked_jobs request_tokens reply_size
--@include select_jobs
local wanted, worker, lease_prefix, requested_ms, default_ms = tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local keep_discarded_ms, this_shard, idle_keys = ARGV[7], ARGV[8], tonumber(ARGV[9])
local tenant, types, types_digest, suspect_mode = ARGV[10], ARGV[11], ARGV[12], ARGV[13]
begin_events(ARGV[1])
batch_events()
suspects.begin(suspect_mode, worker, KEYS[7])
if suspects.refusal then return suspects.refusal end

-- 1. Read, before the first write: due jobs, the limits of the queues, the jobs that may start, and blocked jobs.
-- A fetch promotes a few due jobs only, so that it does not block its node; promote.lua does the rest, malformed ones
-- included. `deliver_event` of append_event.lua exists if there are webhooks: then each job may have 100 deliveries.
local MAX_DUE = 16
local MAX_DUE_WITH_WEBHOOKS = 4
local due, _, due_bytes = load_due_jobs(deliver_event and MAX_DUE_WITH_WEBHOOKS or MAX_DUE, true) -- all of their fields
local jobs = {} -- id -> job, false if it is missing or malformed, nil if it was not read
for i, run in ipairs(due.runs) do
    jobs[due.ids[i]] = run.job
    if run.job and run.job[F.limit] then load_local_limit(run.job) end
end
preflight_key(PENDING) -- for hold_job

-- Returns what this fetch knows of a queue. `at`: index of its first key. Members, by the file that sets them:
--   here              name, tenant, types: as in ARGV. counters, available, blocked, demand: its keys
--                     source: the sorted set whose jobs are read: `available`, or the index of the tenant
--                     limits: see queue_limits.lua; part 3 adds `declaring_job`
--                     started: number of its jobs that part 3 has leased
--                     parked: names of parked jobs that may be taken (find_parked.lua)
--                     parked_in: id -> the set of parked jobs that it was read from (merged_rows.lua)
--                     entries: id -> what parking.load_entry returned
--                     budget: how many tokens it may request (request_budget), if the queue was visited
--   select_jobs.lua   visited: whether it was scanned. last: score of the last job read, if the scan found enough
--                     rows_in_order: its sets of available and parked jobs, for merge.next_row; nil without parked
--                     ones, unless tenant_turns.lua sets it
--                     merged_shown: id -> true, if merge.rows has returned it
--   park_jobs.lua     has_parked: whether this fetch has parked a job
--   lowest_turns.lua  lowest: tenant -> its index, of tenants with the lowest turn; for a fetch of one tenant
--   tenant_turns.lua  turns_key: tenant_turns. turns: list of {tenant, at = its next turn, source = its index}; nil if
--                     tenants do not share the queue, or for a fetch of one tenant: then the following are nil too
--                     known: tenant -> true, if in `turns`. joined: tenant -> the turn with which it joins
--                     found: tenant -> true, of search_tenants. searching, searched_to: for `fair_from`
--                     turns_read, turns_size: how many turns were read, and are read next
--                     first_turn: the lowest one. horizon: all turns up to this one were read
--                     shown, rows, turn_of, ended, stale, charged: empty; the next two files fill them
--   fair_share.lua    shown: id -> true, if fair.rows has returned it. rows: list of these. turn_of: id -> its turn
--                     ended: list of turns without further jobs. stale: pairs of a set and an id that it must lose
--                     head_id, head_score, head_tenant: first job of the queue that is not shown
--                     at_end: whether all jobs are shown
--   write_turns.lua   charged: tenant -> turns of its started jobs. present_turn: the highest turn of a started job
local function read_queue(name, at)
    local counters, available, blocked = KEYS[at], KEYS[at + 1], KEYS[at + 2]
    local queue = {name = name, counters = counters, available = available, blocked = blocked, demand = KEYS[at + 3],
        source = available, -- the sorted set whose jobs are read
        limits = load_queue_limits(counters), started = 0, tenant = tenant, types = types,
        parked_in = {}, entries = {}}
    if tenant ~= '' then
        queue.source = tenant_queue_key(name, tenant)
        preflight_key(queue.source)
    end
    queue.parked = redis.call('EXISTS', blocked) == 1 and find_parked(name, types, tenant) or {}
    parking.preflight_due(queue, due.runs)
    if #queue.limits.limiters > 0 then preflight_key(EXHAUSTED_QUEUES) end
    return queue
end
local queues = {} -- in order
for i = 14, #ARGV do queues[i - 13] = read_queue(ARGV[i], 8 + 4 * (i - 14)) end
local found, more = scan(queues, jobs, wanted, tenant, due_bytes)
if suspects.is_asked then return 'suspect' end
for _, queue in ipairs(queues) do
    if queue.visited then
        queue.budget = request_budget(idle_keys, free_starts(queue.limits.limiters, wanted))
        preflight_blocked_jobs(queue, queue.budget, tenant)
    end
end
run_preflight()

-- 2. Promote the due jobs, and scan again: they may come before the jobs that were found.
if #due.ids > 0 then
    for _, id in ipairs(due.ids) do remove_member(DUE, id) end
    promote_due(due, keep_discarded_ms)
    found, more = scan(queues, jobs, wanted, tenant, 0, due.ids)
end

-- 3. Lease the jobs that may start, block those that need a token, and remove those that have left the queue.
local MORE_JOBS = 2 -- the third value of the reply
local MORE_TOKENS = 1
local LEFT_SUSPECTS = 4 -- added to one of these
local reply, leased = {now, effects, more and MORE_JOBS or 0, redis.call('ZCARD', queues[1].available)}, 0
for _, name in ipairs(queues[1].parked) do
    reply[4] = reply[4] + redis.call('ZCARD', parked_jobs_key(queues[1].name, name, tenant))
end
for _, item in ipairs(found) do -- see candidates.load_item for its members
    local id, queue, job, key = item.id, item.queue, item.job, job_key(item.id)
    if item.entry then -- missing, malformed, or not parked any more
        parking.remove_entry(queue, id, item.entry)
        if item.is_malformed then set_deadline(QUARANTINE, id, now) end
    elseif item.is_stale then
        remove_member(queue.source, id)
    elseif not job then -- missing or malformed
        remove_member(queue.available, id)
        if item.is_malformed then set_deadline(QUARANTINE, id, now) end
    elseif not item.alive then
        remove_from_queue(id, job)
        remove_member(EXPIRING, id)
        expire(id, key, job, keep_discarded_ms)
    elseif job[F.hold] then
        hold_job(id, key, job)
    elseif item.is_other_type then
        parking.park(queue, id, job, item.score)
    elseif not item.starts then
        block_job(queue, id, job, item.score)
    else
        leased, queue.started = leased + 1, queue.started + 1
        remove_member(queue.available, id)
        if job[F.parked] then
            remove_member(queue.blocked, id)
            leave_parked(id, job)
        end
        if job[F.token] then
            use_token(id, job)
        elseif job[F.limit] then
            take_local_token(id, key, job, this_shard)
        end
        if job[F.max_per_second] then
            job.id, queue.limits.declaring_job = id, job
        end
        count_job(job, 'active', 1)
        charge_turn(queue, id, job)
        local at, lease_id = #reply, lease_prefix .. (needs_full_ack(job) and '0' or '') .. leased
        reply[at + 1], reply[at + 2] = id, job.field_list
        reply[at + 3], reply[at + 4], reply[at + 5] = lease(id, job, worker, lease_id, requested_ms, default_ms)
        if item.alone_until then redis.call('HSET', key, F.alone, suspects.mode) end
    end
end

-- 4. Count the starts, and request tokens for blocked jobs.
close_local_limits()
for _, queue in ipairs(queues) do
    count_queue_starts(queue.counters, queue.name, queue.limits, queue.started)
    write_turns(queue)
    if queue.has_parked then redis.call('SPUBLISH', WAKE_CHANNEL, queue.name .. ' * ' .. types_digest) end
    if queue.visited then
        local starts = free_starts(queue.limits.limiters, wanted)
        -- If the scan has found enough jobs, blocked jobs behind the last job found request no tokens.
        local can_request_more = request_tokens(queue, queue.budget, starts, queue.last or math.huge)
        local is_scanned = not (queue.last or more) -- to its end
        if can_request_more and is_scanned and leased < wanted then reply[3] = MORE_TOKENS end
        if redis.call('ZCARD', queue.blocked) > 0 then
            redis.call('HSET', queue.counters, 'demand_at', now)
        end
    end
end
flush_additions()
flush_events()
flush_removals()
flush_counters()
if suspects.left > 0 then reply[3] = reply[3] + LEFT_SUSPECTS end
return reply
