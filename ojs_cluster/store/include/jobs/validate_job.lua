-- Detects malformed jobs, by the rules of store/engine/jobs/validate_job.py. No script writes a malformed job, but an
-- operator, a faulty disk or another program may. Without a check such a job would make a script fail after
-- some of its writes, and again at each repetition. So each script checks its jobs before its first write. A
-- script that gets the id of a malformed job replies 'malformed'. A script over many jobs skips and quarantines
-- it, and the scheduler logs it. When only some fields of a job are read, only these are checked.
local RECHECK_MS = 3600 * 1000 -- pause before the next check of a malformed job

local LATEST_MS = 253402300800000 -- the year 10000: all times and numbers are below it
local function is_number(value)
    local number = tonumber(value)
    return number and number > -LATEST_MS and number < LATEST_MS
end

-- Returns the sum of all numbers of a job. Arithmetic fails if a field is not a number, and is ten times faster
-- than a check of each field.
local function sum_of_numbers(job)
    return job[F.created] + job[F.max_attempts] + (job[F.priority] or 0) + (job[F.expires] or 0)
        + (job[F.attempt] or 0) + (job[F.enqueued] or 0) + (job[F.started] or 0) + (job[F.finished] or 0)
        + (job[F.due] or 0) + (job[F.delay] or 0) + (job[F.visibility] or 0) + (job[F.timeout] or 0)
        + (job[F.errors] or 0) + (job[F.replays] or 0) + (job[F.cancelled_keep_ms] or 0)
        + (job[F.scheduled_shown] or 0) + (job[F.expires_shown] or 0) + (job[F.deadline] or 0)
        + (job[F.lease_ms] or 0) + (job[F.extended] or 0) + (job[F.step] or 0)
        + (job[F.open_token_request] or 0) + (job[F.token_request_count] or 0) + (job[F.max_per_second] or 0)
end

-- Returns whether the fields of a job are valid. At most four times of a job may be near LATEST_MS, and its
-- other numbers are small, so the sum of a valid job is below 5 * LATEST_MS.
local function has_valid_fields(job)
    local summed, sum = pcall(sum_of_numbers, job)
    if not (summed and sum > -LATEST_MS and sum < 5 * LATEST_MS) or not (job[F.state] and job[F.queue]
        and job[F.type] and job[F.envelope]) then return false end
    if job[F.workflow] and not job[F.step] then return false end
    if job[F.state] == 'active' and not (job[F.attempt] and job[F.started]) then return false end
    if job[F.open_token_request] and not job[F.limit] then return false end
    return not job[F.token] or job[F.limit] and string.find(job[F.token], '^%d+w?$')
end

local STATES = ' available scheduled pending active retryable completed cancelled discarded '
local function is_state(state) return string.find(STATES, ' ' .. state .. ' ', 1, true) end

local function is_terminal(state)
    return state == 'completed' or state == 'cancelled' or state == 'discarded'
end

local function is_malformed(reply) return reply and reply[1] == 'malformed' end

-- Keeps a malformed job in its index, and plans the next check.
local function recheck_later(zset, id) redis.call('ZADD', zset, now + RECHECK_MS, id) end
