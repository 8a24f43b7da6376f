-- Transition: (nothing) -> available | scheduled | pending, for one or many jobs of one shard.
-- Pre:  no job with any of the ids exists in the shard; a claim on an alias has not lapsed.
-- Post: all jobs exist, or none does. Counters, indexes and events agree with them.
-- KEYS: 1..4 the shard's due, exp, pend, ev; then per queue c: and q:; then per job its hash.
-- ARGV: 1 events kept, 2 number of queues, 3 number of jobs, 4 alias claim lapses at (ms, 0 none),
--       then the queue names, then per job:
--       id, queue's position (1-based), priority, state wanted ('' or 'pending'),
--       due ('' | 'a<ms>' absolute | 'r<ms>' from now), expires (likewise),
--       number of field names and values that follow, those fields (e, t, m and what is set).
-- Returns: {'ok', now, names of queues seen for the first time,
--           per job: state, due ms or '', expires ms or ''}
--          {'exists', position (1-based), fields of the job that is there}
--          {'lapsed'}
--@include keys now job event deadline available
local queues, jobs = tonumber(ARGV[2]), tonumber(ARGV[3])
local first_job = 4 + 2 * queues
for i = 1, jobs do
    if redis.call('EXISTS', KEYS[first_job + i]) == 1 then
        return {'exists', i, redis.call('HGETALL', KEYS[first_job + i])}
    end
end
if ARGV[4] ~= '0' and now >= tonumber(ARGV[4]) then return {'lapsed'} end

local names, seen_first = {}, {}
for i = 1, queues do
    names[i] = ARGV[4 + i]
    if redis.call('HSETNX', KEYS[4 + 2 * i - 1], 'created', now) == 1 then
        seen_first[#seen_first + 1] = names[i]
    end
end

-- A moment in ms, and the same again when it was relative and so must be shown in the envelope.
local function moment(text)
    if text == '' then return nil end
    local at = tonumber(string.sub(text, 2))
    if string.sub(text, 1, 1) == 'a' then return at end
    return now + at, now + at
end

local reply = {'ok', now, seen_first}
local at = 4 + queues
for i = 1, jobs do
    local key, id = KEYS[first_job + i], ARGV[at + 1]
    local due, due_shown = moment(ARGV[at + 5])
    local expires, expires_shown = moment(ARGV[at + 6])
    local fields = tonumber(ARGV[at + 7])
    local job = {
        [F.queue] = names[tonumber(ARGV[at + 2])], [F.priority] = ARGV[at + 3],
        [F.expires] = expires, [F.created] = now,
    }
    local write = {}
    for j = 1, fields do write[j] = ARGV[at + 7 + j] end
    for j = 1, fields, 2 do job[write[j]] = write[j + 1] end
    local state = 'available'
    if ARGV[at + 4] == 'pending' then state = 'pending'
    elseif due and due > now then state = 'scheduled' end
    local function set(name, value) write[#write + 1] = name; write[#write + 1] = value end
    set(F.state, state)
    set(F.queue, job[F.queue])
    set(F.created, now)
    if ARGV[at + 3] ~= '0' then set(F.priority, ARGV[at + 3]) end
    if due then set(F.due, due) end
    if due_shown then set(F.scheduled_shown, due_shown) end
    if expires then set(F.expires, expires) end
    if expires_shown then set(F.expires_shown, expires_shown) end
    redis.call('HSET', key, unpack(write))

    if state == 'available' then
        make_available(id, job)
        emit('job.enqueued', id, job)
    else
        count(job[F.queue], state, 1)
        if expires then set_deadline(EXPIRING, id, expires) end
        if state == 'pending' then
            redis.call('ZADD', PENDING, now, id)
        else
            set_deadline(DUE, id, due)
            emit('job.scheduled', id, job, 'n', due)
        end
    end
    reply[#reply + 1] = state
    reply[#reply + 1] = due or ''
    reply[#reply + 1] = expires or ''
    at = at + 7 + fields
end
return reply
