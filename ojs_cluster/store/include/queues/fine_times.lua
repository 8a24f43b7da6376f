-- Fine times: how many jobs waited and ran for how long, in buckets that are at most a tenth wide. The text of
-- core/histograms.py (WaitsAndRuns): the longest wait and the longest run in ms, then place:count of each bucket
-- with jobs, separated by blanks. A record is the number of its minute or hour, a blank, and such a text.
local function new_times() return {wait = 0, run = 0, counts = {}} end

-- Adds a text. A damaged one, or none, adds nothing.
local function add_times(sums, text)
    local wait, run, buckets = string.match(text or '', '^(%d+) (%d+)(.*)$')
    if not wait then return end
    sums.wait = math.min(math.max(sums.wait, tonumber(wait)), 2 ^ 52)
    sums.run = math.min(math.max(sums.run, tonumber(run)), 2 ^ 52)
    for place, count in string.gmatch(buckets, ' (%d%d?%d?):(%d+)') do
        sums.counts[place] = math.min((sums.counts[place] or 0) + tonumber(count), 2 ^ 52)
    end
end

-- Adds a record, if it has this number.
local function add_times_record(sums, record, number)
    local found, text = string.match(record or '', '^(%d+) (.*)$')
    if found == string.format('%.0f', number) then add_times(sums, text) end
end

-- Returns the sums as a text, an empty one without jobs.
local function join_times(sums)
    if not next(sums.counts) then return '' end
    local parts = {string.format('%.0f %.0f', sums.wait, sums.run)}
    for place, count in pairs(sums.counts) do
        parts[#parts + 1] = place .. ':' .. string.format('%.0f', count)
    end
    return table.concat(parts, ' ')
end

-- Returns the record of a number, with what the present record of this number has and `text`.
local function with_times(record, number, text)
    local sums = new_times()
    add_times_record(sums, record, number)
    add_times(sums, text)
    return string.format('%.0f', number) .. ' ' .. join_times(sums)
end
