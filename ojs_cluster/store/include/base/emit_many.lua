-- Appends an event of each job from ids[from] to ids[to], for a script that batches its events. All these jobs have
-- the fields of `job`. The entry of such events is searched once for each table `job`, until it closes. So events
-- of one kind and one table have the same further fields.
local seen_entries, entry_of = nil, {}
local function emit_many(kind, ids, from, to, job, ...)
    local entry = kind == open_kind and seen_entries == open_entries and entry_of[job]
    if not entry then
        entry = emit(kind, ids[from], job, ...)
        if not entry then return end -- there are no events
        if seen_entries ~= open_entries then seen_entries, entry_of = open_entries, {} end
        entry_of[job], from = entry, from + 1
    end
    while from <= to do
        local length, last = #entry.ids, from
        if length == 0 and to - from + 1 >= IDS_PER_ENTRY then
            last = from + IDS_PER_ENTRY - 1
            add_event(kind, table.concat(ids, ' ', from, last), entry.type, entry.queue, entry.more)
        elseif length + 1 < IDS_PER_ENTRY then
            entry.ids[length + 1] = ids[from]
        else
            entry.ids[length + 1] = ids[from]
            add_event(kind, table.concat(entry.ids, ' '), entry.type, entry.queue, entry.more)
            entry.ids = {}
        end
        from = last + 1
    end
end
