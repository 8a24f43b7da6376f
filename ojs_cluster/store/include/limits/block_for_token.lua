-- Jobs that need a token of their rate limit key before they may start (docs/adr/011). A fetch moves such a job
-- to the blocked jobs under its old score, and requests a token from the shard of the key. The field `state` of the job
-- stays 'available'. A blocked job is unrequested or requested:
--
--   state        sets                                          field               next state
--   available    queue_available                               none                unrequested (block_job)
--   unrequested  queue_blocked, token_unrequested              none                requested (request_tokens)
--   requested    queue_blocked, token_requested, token_grants  open_token_request  granted (limit_grant.lua)
--   granted      queue_available, token_grants                 token               active (a fetch)
--
-- limit_grant.lua makes a requested job unrequested again if no fetch wants jobs of the queue, and schedules or
-- discards it if its limit refuses. limit_return.lua makes a granted job unrequested if no fetch takes it in time, and
-- repeats a request without an answer. `token_demand` of the queue has the keys with unrequested jobs.
--@include add_later
local MAX_OPEN_REQUESTS = 100 -- maximum number of unanswered requests for one key in one queue
local MAX_KEYS_PER_FETCH = 16
local REQUEST_AGAIN_MS = 300 * 1000 -- a failover may lose a request: see limit_return.lua
-- queue -> key -> {jobs: its blocked jobs that this fetch knows, read: they were read from Redis, idle: the key
-- had no pending request}.
local blocked_jobs = {}

-- Returns how many tokens one queue may request: `max_requests` in all, `per_key` for one key, for the first
-- `max_keys` keys of its demand.
-- `idle_keys`: number of keys without a pending request that may request tokens. If there are such keys, only
-- they request tokens, because the requests of the others are answered soon. If it is 0, every key may.
local function request_budget(idle_keys, wanted)
    if idle_keys == 0 then
        return {max_requests = wanted, per_key = wanted, max_keys = MAX_KEYS_PER_FETCH, any_key = true}
    end
    return {max_requests = math.max(wanted, idle_keys), per_key = math.max(1, math.floor(wanted / idle_keys)),
        max_keys = idle_keys}
end

-- Moves a job from the available jobs of its queue to the blocked jobs.
local function block_job(queue, id, job, score)
    local key, keys = limit_of(job), blocked_jobs[queue.name]
    keys[key] = keys[key] or {jobs = {}}
    table.insert(keys[key].jobs, {id = id, score = score, limit = job[F.limit],
        requests = job[F.token_request_count] or 0})
    if job[F.parked] then leave_parked(id, job) end
    remove_member(queue.available, id)
    unindex_for_tenant(id, job)
    add_later(queue.blocked, score, id)
end
