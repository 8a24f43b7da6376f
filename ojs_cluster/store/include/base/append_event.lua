-- One line of the shard's bounded event stream, written by the transition itself.
-- ARGV[1] of every script that emits is the stream's length; 0 switches events off.
--
-- A script over many jobs calls `batch_events`, and `flush_events` at its end: then events of one kind, queue
-- and type that say the same share an entry, whose `j` holds their ids between blanks (store/operations/events.py
-- takes it apart). An entry of its own for each costs as much as the rest of a job's promotion. Events
-- of another kind close the open entries, so that what one job does keeps its order.
local EVENTS_KEPT, IN_AN_ENTRY = tonumber(ARGV[1]), 16
local gathering, open_kind, open, in_order

local function batch_events() gathering, open, in_order = true, {}, {} end

local function add_event(kind, ids, job, more)
    redis.call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*',
        't', kind, 'j', ids, 'y', job[F.type], 'q', job[F.queue], unpack(more))
end

local function flush_events()
    if not gathering then return end
    for _, entry in ipairs(in_order) do
        if #entry.ids > 0 then
            add_event(open_kind, table.concat(entry.ids, ' '), entry.job, entry.more)
        end
    end
    open, in_order = {}, {}
end

local function emit(kind, id, job, ...)
    if EVENTS_KEPT == 0 then return end
    if not gathering then return add_event(kind, id, job, {...}) end
    if kind ~= open_kind then
        flush_events()
        open_kind = kind
    end
    local alike = job[F.queue] .. '\n' .. job[F.type]
    if ... then alike = alike .. '\n' .. table.concat({...}, '\n') end
    local entry = open[alike]
    if not entry then
        entry = {ids = {}, job = {[F.type] = job[F.type], [F.queue] = job[F.queue]}, more = {...}}
        open[alike] = entry
        in_order[#in_order + 1] = entry
    end
    entry.ids[#entry.ids + 1] = id
    if #entry.ids == IN_AN_ENTRY then
        add_event(kind, table.concat(entry.ids, ' '), entry.job, entry.more)
        entry.ids = {}
    end
end
