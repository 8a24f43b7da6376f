-- Changes members of a waiting job.
-- Pre:  the job is pending, scheduled, available or retryable, and was edited as often as the caller has read.
--       A job that gets another due time is scheduled. A job whose content changes is not unique.
-- Post: the job has the new values, and is ordered and indexed by them. The next edit must expect one edit more.
-- Memory: deny-oom; replaces the members of the job.
-- KEYS: 1 job, 2 due, 3 expiring, then sets of indexed values that the job may have got.
-- ARGV: 1 edits expected, 2 priority or '', 3 when it is due, 4 when it expires ('-' for never; both as of
--       parse_time.lua, '' to keep them), 5 'content' if args or meta change, 6 'no_timeout' to drop the timeout,
--       7 when the job was created (Unix time in ms), 8 history (see set_history), 9 retention of the index of
--       the search (ms), then names and values of fields.
-- Returns: {'ok', fields} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--          {'conflict', state} | {'refused', 'edited' | 'scheduled' | 'unique'}
--@include keys now preflight remove_one read_job change_counters append_effect finish_job remove_from_queue
--@include move_to_priority parse_time set_deadline record_history index_value
set_history(ARGV[8])
local key, priority, expires_text = KEYS[1], tonumber(ARGV[2]), ARGV[4]
local job, reply = load_job(key)
if not job then return reply end
local id, state, edits = job_id_of(key), job[F.state], job[F.edits] or '0'
if is_terminal(state) or state == 'active' then return {'conflict', state} end
-- Another job that has got the id meanwhile must not get the envelope of the job that the caller has read.
if job[F.created] ~= ARGV[7] then return {'refused', 'edited'} end
if edits ~= ARGV[1] then return {'refused', 'edited'} end
if ARGV[3] ~= '' and state ~= 'scheduled' then return {'refused', 'scheduled'} end
if ARGV[5] ~= '' and job[F.unique] then return {'refused', 'unique'} end
local zsets, limited = preflight_order(job)
run_preflight()
if priority then move_to_priority(id, job, priority, zsets, limited) end
local due, due_shown = parse_time(ARGV[3])
if due then
    set_deadline(DUE, id, due)
    save_job(key, job, F.due, due)
    if due_shown then save_job(key, job, F.scheduled_shown, due_shown) else drop_fields(key, job, F.scheduled_shown) end
end
if expires_text == '-' then
    drop_fields(key, job, F.expires, F.expires_shown)
elseif expires_text ~= '' then
    local expires, expires_shown = parse_time(expires_text)
    set_deadline(EXPIRING, id, expires)
    save_job(key, job, F.expires, expires)
    if expires_shown then save_job(key, job, F.expires_shown, expires_shown)
    else drop_fields(key, job, F.expires_shown) end
end
if ARGV[6] ~= '' then drop_fields(key, job, F.timeout) end
record_history(key, job, 'edited', '')
save_job(key, job, F.edits, tonumber(edits) + 1, unpack(ARGV, 10))
-- A manual retry restores the maximum number of attempts from this field (worker_death.lua).
for i = 10, #ARGV, 2 do
    if ARGV[i] == F.max_attempts and job[F.deaths] then
        save_job(key, job, F.deaths, (string.gsub(job[F.deaths], '%d+$', ARGV[i + 1])))
    end
end
for i = 4, #KEYS do index_value(KEYS[i], id, job[F.created], tonumber(job[F.due]), ARGV[9]) end
-- A removal comes last: an emptied set is deleted, and its key cannot be touched again (see preflight.lua).
if expires_text == '-' then remove_member(EXPIRING, id) end
return {'ok', job.field_list}
