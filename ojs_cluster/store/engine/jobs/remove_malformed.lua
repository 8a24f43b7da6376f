-- Transition: malformed -> deleted, for one job that is cancelled or deleted by its id.
-- Pre:  the job is malformed (validate_job.lua).
-- Post: the job and its index entries are removed. If the needed fields are readable, the effects for its
--       workflow, lock and rate limit are in the outbox. If its state is known from a field or an index, the
--       counter of its queue is correct. If its id maps to another shard, the janitor checks later whether an
--       alias is left there.
-- Memory: allow-oom; adds 100 bytes, less than it removes.
-- KEYS: 1 job, 2 due, 3 active, 4 execution_deadlines, 5 expiring, 6 pending, 7 finished, 8 dead,
--       9 quarantine, 10 references.
-- ARGV: 1 '1' when the id maps to another shard, else ''.
-- Returns: {'ok', fields, effects} | {'valid'} | {'missing'} | {'moved', shard} | {'prepared', transaction}
--@include keys now preflight remove_one read_job change_counters set_deadline append_effect
--@include tenant_queue effects_of_jobs
local key, id = KEYS[1], job_id_of(KEYS[1])
local field_list, job = redis.call('HGETALL', key), {}
for i = 1, #field_list, 2 do job[field_list[i]] = field_list[i + 1] end
local valid, reply = check_job(key, job, #field_list > 0 and field_list)
if valid then return {'valid'} end
if not is_malformed(reply) then return reply end
local queue, state = job[F.queue], job[F.state]
if not is_state(state or '') then state = nil end
for indexed_state, zset in pairs({active = ACTIVE, pending = PENDING, scheduled = DUE}) do
    if not state and redis.call('ZSCORE', zset, id) then state = indexed_state end
end
local limit_key = job[F.limit] and limit_of(job)
local request_number = string.match(job[F.token] or job[F.open_token_request] or '', '^%d+')
preflight_key(OUTBOX)
preflight_key(OUTBOX_DUE)
preflight_key(TOKEN_GRANTS)
if job[F.checkpoint] then preflight_key(checkpoint_key(id)) end
if queue then
    local keys = {queue_counters_key(queue), queue_minutes_key(queue), queue_available_key(queue),
        queue_blocked_key(queue), queue_dead_key(queue)}
    for _, name in ipairs(keys) do preflight_key(name) end
    if job[F.tenant] then
        preflight_key(tenant_queue_key(queue, job[F.tenant]))
        preflight_key(tenant_counters_key(job[F.tenant]))
    end
    if job[F.parked] then preflight_parked(job) end
    if limit_key then
        preflight_key(token_unrequested_key(queue, limit_key))
        preflight_key(token_requested_key(queue, limit_key))
    end
end
run_preflight()
-- Available jobs have no counter: the size of their set is their number.
if queue and state == 'available' then leave_tenant_queue(id, job)
elseif queue and state then count_job(job, state, -1) end
if job[F.workflow] and job[F.step] and not is_terminal(state or '') then
    append_effect('workflow', job[F.workflow] .. ' ' .. job[F.step] .. ' ' .. id .. ' cancelled')
end
if job[F.unique] then append_effect('unlock', unlock_payload(job[F.unique], id, job[F.replays])) end
if limit_key and request_number then
    append_effect('token_return', limit_key .. ' u ' .. id .. '/' .. request_number)
end
if ARGV[1] == '1' then redis.call('ZADD', KEYS[10], now, id) end
for i = 2, 9 do remove_member(KEYS[i], id) end -- all indexes, due to quarantine
remove_member(TOKEN_GRANTS, id)
if queue then
    for _, zset in ipairs({queue_available_key(queue), queue_blocked_key(queue), queue_dead_key(queue)}) do
        remove_member(zset, id)
    end
    for _, zset in ipairs(job[F.parked] and parked_keys(job) or {}) do remove_member(zset, id) end
    if limit_key then
        remove_member(token_unrequested_key(queue, limit_key), id)
        remove_member(token_requested_key(queue, limit_key), id)
    end
end
redis.call('UNLINK', key)
if job[F.checkpoint] then redis.call('UNLINK', checkpoint_key(id)) end
flush_counters()
return {'ok', field_list, effects}
