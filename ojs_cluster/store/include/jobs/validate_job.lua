-- Checks that a job is not malformed. No script writes a malformed job, but an operator, a faulty disk or
-- another program may. A malformed job must not stop a script, which would fail at every call and amid its
-- writes. So each script checks before its first write. By id the reply is 'malformed'. Scripts over many
-- jobs skip and quarantine it, and the scheduler reports it. Of a job that is read in part only that part
-- is checked. Twin of store/jobs/validate_job.py.
local RECHECK_MS = 3600 * 1000

-- Times are below the year 10000, in ms.
local LATEST_MS = 253402300800000
local function is_number(value)
    local number = tonumber(value)
    return number and number > -LATEST_MS and number < LATEST_MS
end

-- Adds up all numbers of a job: arithmetic fails on anything but digits, and costs a tenth of a check per
-- field. A job has at most four times that may be large.
local function sum_of_numbers(job)
    return job[F.created] + job[F.max_attempts] + (job[F.priority] or 0) + (job[F.expires] or 0)
        + (job[F.attempt] or 0) + (job[F.enqueued] or 0) + (job[F.started] or 0) + (job[F.finished] or 0)
        + (job[F.due] or 0) + (job[F.delay] or 0) + (job[F.visibility] or 0) + (job[F.timeout] or 0)
        + (job[F.errors] or 0) + (job[F.replays] or 0) + (job[F.cancel_requested] or 0)
        + (job[F.scheduled_shown] or 0) + (job[F.expires_shown] or 0) + (job[F.deadline] or 0)
        + (job[F.lease_ms] or 0) + (job[F.extended] or 0) + (job[F.step] or 0) + (job[F.requested_token] or 0)
        + (job[F.token_requests] or 0) + (job[F.max_per_second] or 0)
end

local function has_valid_fields(job)
    local summed, sum = pcall(sum_of_numbers, job)
    if not (summed and sum > -LATEST_MS and sum < 5 * LATEST_MS) or not (job[F.state] and job[F.queue]
        and job[F.type] and job[F.envelope]) then return false end
    if job[F.workflow] and not job[F.step] then return false end
    if job[F.state] == 'active' and not (job[F.attempt] and job[F.started]) then return false end
    if job[F.requested_token] and not job[F.limit] then return false end
    return not job[F.token] or job[F.limit] and string.find(job[F.token], '^%d+w?$')
end

local STATES = ' available scheduled pending active retryable completed cancelled discarded '
local function is_state(state) return string.find(STATES, ' ' .. state .. ' ', 1, true) end

local function is_terminal(state)
    return state == 'completed' or state == 'cancelled' or state == 'discarded'
end

local function is_malformed(reply) return reply and reply[1] == 'malformed' end

-- Keeps a malformed job in its index, to be checked again later.
local function recheck_later(zset, id) redis.call('ZADD', zset, now + RECHECK_MS, id) end
