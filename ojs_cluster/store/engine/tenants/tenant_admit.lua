-- Admits new jobs of a tenant that has limits, or refuses them. The jobs are stored in other shards, so this script
-- compares the limits with an estimate: the sum of the tenant's counters of all shards, which a process has read a
-- short time ago, plus the jobs that were admitted since that read began. Jobs that have left the waiting states
-- since are still in the estimate, so before it refuses jobs the script asks for a new sum. While one caller reads
-- the sum, the script decides about the jobs of others by the present one.
-- Pre:  all jobs of the request are admitted, or none.
-- Post: admitted jobs are counted in the estimate and in the rate. Refused ones are not. The first refusal by a limit
--       in a minute has appended the event tenant.limit_exceeded.
-- Memory: allow-oom; adds 2 KiB per tenant with limits.
-- KEYS: 1 tenant_admission, 2 events.
-- ARGV: 1 events kept, 2 number of new waiting jobs, 3 number of new scheduled jobs, which are among them,
--       4 max_queue_depth ('' none), 5 max_scheduled ('' none), 6 jobs of max_enqueue_rate ('' none), 7 its period
--       in ms, 8 waiting jobs by a new sum ('' no new sum), 9 scheduled jobs by it, 10 and 11 what this script
--       returned with 'sum' before the sum was read, 12 the tenant.
-- Returns: {'ok'}
--          {'sum', admitted jobs, admitted scheduled jobs}: read the sum, and call again
--          {'full', name of the limit, jobs that count, maximum, ms after which a retry may succeed}
--@include keys now fields validate_job append_event set_deadline create_limiters
begin_events(ARGV[1])
local admission_key = KEYS[1]
local waiting, scheduled = tonumber(ARGV[2]), tonumber(ARGV[3])
local depth, max_scheduled = tonumber(ARGV[4]), tonumber(ARGV[5])
local FRESH_MS = 5000     -- a sum is used for so long
local FRESH_FULL_MS = 200 -- and for so long to refuse jobs
local READ_MS = 200       -- a caller has so long to read a new sum; then the script asks another one
local USABLE_MS = 10000   -- the present sum is used for so long while callers read a new one
local KEEP_MS = 60000     -- the key is kept for so long after its last use
local RETRY_MS = 5000
local EVENT_GAP_MS = 60000 -- between two events of a limit; KEEP_MS is no shorter

local fields, state = {'waiting', 'scheduled', 'summed_at', 'admitted', 'admitted_scheduled', 'at_sum',
    'scheduled_at_sum', 'asked_at'}, {}
local damaged = false
for i, value in ipairs(redis.call('HMGET', admission_key, unpack(fields))) do
    state[fields[i]] = is_number(value) and tonumber(value) or 0
    damaged = damaged or value and not is_number(value)
end
for _, field in ipairs(damaged and fields or {}) do state[field] = 0 end -- as if the key were lost
local write = {}
local function set(field, number)
    state[field] = number
    write[#write + 1], write[#write + 2] = field, string.format('%.0f', number)
end
if ARGV[8] ~= '' then
    set('waiting', tonumber(ARGV[8])) set('scheduled', tonumber(ARGV[9])) set('summed_at', now)
    set('at_sum', tonumber(ARGV[10])) set('scheduled_at_sum', tonumber(ARGV[11]))
    set('asked_at', 0)
end

-- Returns the reply that refuses the jobs or asks for a new sum; nil if the jobs fit.
local function check()
    local age = now - state.summed_at
    -- After a loss of the key, or of its last writes, the numbers of the sum may be above the counted ones.
    local counted = state.admitted - state.at_sum
    local counted_scheduled = state.admitted_scheduled - state.scheduled_at_sum
    local is_usable = age >= 0 and age < USABLE_MS and counted >= 0 and counted_scheduled >= 0
    local asked_ms = now - state.asked_at
    local is_being_read = is_usable and asked_ms >= 0 and asked_ms < READ_MS
    local function ask()
        set('asked_at', now)
        return {'sum', string.format('%.0f', state.admitted), string.format('%.0f', state.admitted_scheduled)}
    end
    if (depth or max_scheduled) and not (is_usable and (age < FRESH_MS or is_being_read)) then return ask() end
    for _, limit in ipairs({{'max_queue_depth', depth, state.waiting + counted, waiting},
        {'max_scheduled', max_scheduled, state.scheduled + counted_scheduled, scheduled}}) do
        local name, maximum, current, new = unpack(limit)
        if maximum and new > 0 and current + new > maximum then
            if age >= FRESH_FULL_MS and not is_being_read then return ask() end
            return {'full', name, current, maximum, RETRY_MS}
        end
    end
end

local reply, limit = check(), tonumber(ARGV[6])
if not reply and limit then
    local period = tonumber(ARGV[7])
    local limiter = rate_limiter(limit, period, redis.call('HGET', admission_key, 'rate'), 'rate')
    if limiter.free() < waiting then
        local opens_at = limiter.free() < 1 and limiter.opens_at() or now + period / 64
        reply = {'full', 'max_enqueue_rate', limit - limiter.free(), limit, math.ceil(opens_at - now)}
    else write[#write + 1], write[#write + 2] = limiter.count(waiting) end
end
if not reply then
    set('admitted', state.admitted + waiting)
    set('admitted_scheduled', state.admitted_scheduled + scheduled)
end
local event
if reply and reply[1] == 'full' then
    local field = 'announced_' .. reply[2]
    local announced = redis.call('HGET', admission_key, field)
    local age = now - (is_number(announced) and tonumber(announced) or 0)
    event = age < 0 or age >= EVENT_GAP_MS
    if event then set(field, now) end
end
if #write > 0 then
    redis.call('HSET', admission_key, unpack(write))
    redis.call('PEXPIRE', admission_key, KEEP_MS + (limit and tonumber(ARGV[7]) or 0))
end
if event then
    emit('tenant.limit_exceeded', '', {[F.queue] = '', [F.type] = '', [F.tenant] = ARGV[12]},
        'l', reply[2], 'u', string.format('%.0f', reply[3]), 'm', string.format('%.0f', reply[4]))
end
return reply or {'ok'}
