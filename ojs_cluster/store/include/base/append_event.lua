-- Appends events to the shard's bounded event stream, and to the deliveries of webhooks. A script first calls
-- begin_events.
-- Fields of an entry: t kind of the event, j job ids, y job type, q queue, and further fields by kind. f is the
-- state before the event, if the kind does not imply it. An entry of such a kind without f is about a new job.
-- tn is the tenant of the jobs; it is absent if they have none.
--
-- A script over many jobs calls `batch_events` next and `flush_events` at its end. Events of one kind, queue
-- and type with the same further fields then share an entry, whose `j` holds the job ids separated by blanks
-- (store/features/events/entries.py splits it). One entry per event would double the cost of a job's promotion. An
-- event of another kind closes the open entries, so that the events of one job keep their order.
--@include open_deliveries
local IDS_PER_ENTRY = 16
local stream_length, deliver_event -- set by begin_events
local batching, open_kind, open_entries, ordered_entries

-- Reads the script's argument `events kept`: the length of the stream, 0 for no stream, and nothing more unless there
-- are active webhook subscriptions. open_deliveries.lua describes the rest.
local function begin_events(setting)
    stream_length = tonumber(setting)
    if stream_length then return end
    stream_length = tonumber(string.match(setting, '^%d+'))
    deliver_event = open_deliveries(setting)
end

local function batch_events() batching, open_entries, ordered_entries = true, {}, {} end

local function add_event(kind, ids, job_type, queue, more)
    local position = ''
    if stream_length > 0 then
        position = redis.call('XADD', EVENTS, 'MAXLEN', '~', stream_length, '*',
            't', kind, 'j', ids, 'y', job_type, 'q', queue, unpack(more))
    end
    if deliver_event then deliver_event(position, kind, ids, job_type, queue, more) end
end

local function flush_events()
    if not batching then return end
    for _, entry in ipairs(ordered_entries) do
        if #entry.ids > 0 then
            add_event(open_kind, table.concat(entry.ids, ' '), entry.type, entry.queue, entry.more)
        end
    end
    open_entries, ordered_entries = {}, {}
end

-- Appends an event of a job, with further fields. Returns the entry of a batch that it belongs to.
local function emit(kind, id, job, ...)
    if stream_length == 0 and not deliver_event then return end
    local more = {...}
    if job[F.tenant] then more[#more + 1], more[#more + 2] = 'tn', job[F.tenant] end
    if not batching then return add_event(kind, id, job[F.type], job[F.queue], more) end
    if kind ~= open_kind then
        flush_events()
        open_kind = kind
    end
    local group = job[F.queue] .. '\n' .. job[F.type]
    if more[1] then group = group .. '\n' .. table.concat(more, '\n') end
    local entry = open_entries[group]
    if not entry then
        entry = {ids = {}, type = job[F.type], queue = job[F.queue], more = more}
        open_entries[group] = entry
        ordered_entries[#ordered_entries + 1] = entry
    end
    entry.ids[#entry.ids + 1] = id
    if #entry.ids == IDS_PER_ENTRY then
        add_event(kind, table.concat(entry.ids, ' '), entry.type, entry.queue, entry.more)
        entry.ids = {}
    end
    return entry
end
