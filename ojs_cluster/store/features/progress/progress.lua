-- Transition: none; stores the progress of an active job and extends its lease.
-- Pre:  the job is active, and the caller holds its lease or names no holder. A job in another state does not
--       change.
-- Post: deadline = now + the length of the lease. The progress never falls during an attempt: a report with
--       a lower progress only extends the lease. At most one event per EVENT_INTERVAL_MS and job.
-- Memory: allow-oom; adds the message and the data (store/features/progress/progress.py) and 500 bytes.
-- KEYS: 1 job, 2 active, 3 events.
-- ARGV: 1 events kept, 2 worker id or '', 3 lease id or '', 4 progress from 0 to 1 or '', 5 JSON object
--       with message and data or '', 6 message for the event or ''.
-- Returns: {'ok', names and values of the first 5 of `names`} | {'missing'} | {'moved', shard} |
--          {'prepared', transaction} | {'not_holder'} | {'malformed'}
--@include keys now fields validate_job append_event set_deadline check_holder
begin_events(ARGV[1])
local EVENT_INTERVAL_MS = 1000
local key, worker, lease, reported, data, message = KEYS[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local names = {F.state, F.attempt, F.finished, F.progress, F.progress_data, F.worker, F.lease, F.lease_ms,
    F.type, F.queue, F.alias, F.transaction, F.tenant}
local job = {}
for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do job[names[i]] = value or nil end
if job[F.alias] then return {'moved', job[F.alias]} end
if job[F.transaction] then return {'prepared', job[F.transaction]} end
if not job[F.state] then return {redis.call('EXISTS', key) == 1 and 'malformed' or 'missing'} end
if not is_state(job[F.state]) then return {'malformed'} end

if job[F.state] == 'active' then
    if not is_holder(job, worker, lease) then return {'not_holder'} end
    if not (job[F.type] and job[F.queue] and is_number(job[F.attempt])
        and is_number(job[F.lease_ms])) then return {'malformed'} end
    local id, deadline = job_id_of(key), now + job[F.lease_ms]
    -- The field is '<attempt> <ms of the last report> <ms of the last event> <number or nothing>'.
    local attempt, _, event_at, value =
        string.match(job[F.progress] or '', '^(%d+) (%d+) (%d+) ([%d.e-]*)$')
    if attempt ~= job[F.attempt] then event_at, value = '0', '' end
    local old_number, new_number = tonumber(value), tonumber(reported)
    if not old_number then value = '' end
    if old_number and new_number and new_number < old_number then
        redis.call('HSET', key, F.deadline, deadline, F.extended, now)
    else
        if new_number then value = reported end
        if math.abs(now - event_at) >= EVENT_INTERVAL_MS then
            event_at = string.format('%.0f', now)
            local more = {'w', job[F.worker] or '', 'a', job[F.attempt]}
            if value ~= '' then
                more[5], more[6] = 'p', string.format('%.10g', 100 * value)
            end
            if message ~= '' then
                more[#more + 1], more[#more + 2] = 'g', message
            end
            emit('job.progress', id, job, unpack(more))
        end
        job[F.progress] = string.format('%s %.0f %s %s', job[F.attempt], now, event_at, value)
        job[F.progress_data] = data
        redis.call('HSET', key, F.deadline, deadline, F.extended, now, F.progress, job[F.progress],
            F.progress_data, data)
    end
    set_deadline(ACTIVE, id, deadline)
end
local field_list = {}
for i = 1, 5 do
    if job[names[i]] then
        field_list[#field_list + 1], field_list[#field_list + 2] = names[i], job[names[i]]
    end
end
return {'ok', field_list}
