-- Records which problems the cluster has. What was not there before begins, and what is missing for a while ends.
-- Post: problems has the given problems, and at most MAX_MISSING others: those that were found less than ARGV[3] ms ago,
--       with '' all. If there are more, the ones that were found longest ago end.
--       Mutes whose time has come, or whose problem has ended, are removed. problem.began is appended for each problem
--       that begins and is not muted, problem.ended for each that ends.
-- Memory: allow-oom; adds 4 KiB per problem, 200 problems at most.
-- KEYS: 1 meta problems, 2 meta problem_mutes, 3 meta events.
-- ARGV: 1 events kept, 2 the process that looks for problems, 3 ms after which a missing problem has ended ('' while not
--       all of the cluster could be read: none ends), then of each problem its id, when it began (ms, '' for now) and
--       its description as JSON.
-- Returns: 1
--@include keys now fields append_event
begin_events(ARGV[1])
local LOOKS = '@'           -- the field of the last look: when, when the last complete one was, and by which process
local NEW_MUTE_MS = 60000   -- a mute without an end may come this long before the first look that finds its problem
local KEPT_MS = 3600000     -- without a look for this long the records expire
local MAX_MISSING = 100     -- without a bound, ids of jobs would become more and more while a master is lost
local problems, mutes = KEYS[1], KEYS[2]
local ended_after_ms, now_text = tonumber(ARGV[3]), string.format('%.0f', now)

-- Returns the values of a hash by their fields. Each value has two numbers and a text.
local function read(key)
    local values, flat = {}, redis.call('HGETALL', key)
    for position = 1, #flat, 2 do
        local first, second, text = string.match(flat[position + 1], '^(%d+) (%d+) (.*)$')
        values[flat[position]] = {tonumber(first) or 0, tonumber(second) or 0, text or '{}'}
    end
    return values
end

local known, muted = read(problems), read(mutes)
local looks = known[LOOKS] or {0, 0}
known[LOOKS] = nil
local complete = ended_after_ms and now_text or string.format('%.0f', looks[2])
local present = {LOOKS, now_text .. ' ' .. complete .. ' ' .. ARGV[2]}
local began, ended, is_given = {}, {}, {}
for position = 4, #ARGV, 3 do
    local id, since, description = ARGV[position], ARGV[position + 1], ARGV[position + 2]
    if known[id] then since = string.format('%.0f', known[id][1]) elseif since == '' then since = now_text end
    if not known[id] then began[#began + 1] = {id, since, description} end
    present[#present + 1], present[#present + 2] = id, since .. ' ' .. now_text .. ' ' .. description
    is_given[id] = true
end

local missing = {}
for id in pairs(known) do if not is_given[id] then missing[#missing + 1] = id end end
table.sort(missing, function(one, other) return known[one][2] > known[other][2] end)
local has_ended = {}
for rank, id in ipairs(missing) do
    local since, found, description = unpack(known[id])
    if rank > MAX_MISSING or ended_after_ms and now - found >= ended_after_ms then
        ended[#ended + 1] = {id, string.format('%.0f', since), description}
        has_ended[id] = true
    end
end

local unmuted = {}
for id, mute in pairs(muted) do
    local muted_at, ends_at = unpack(mute)
    local is_over = ends_at > 0 and ends_at <= now
    if ends_at == 0 and not is_given[id] and (has_ended[id] or not known[id]) then
        is_over = ended_after_ms and now - muted_at >= NEW_MUTE_MS
    end
    if is_over then unmuted[#unmuted + 1], muted[id] = id, nil end
end

local function announce(kind, id, since, description)
    emit(kind, '', {[F.queue] = '', [F.type] = ''}, 'i', id, 'b', since, 'D', description)
end
for _, problem in ipairs(began) do
    if not muted[problem[1]] then announce('problem.began', unpack(problem)) end
end
for _, problem in ipairs(ended) do announce('problem.ended', unpack(problem)) end
redis.call('HSET', problems, unpack(present))
redis.call('PEXPIRE', problems, KEPT_MS)
for _, problem in ipairs(ended) do redis.call('HDEL', problems, problem[1]) end
if unmuted[1] then redis.call('HDEL', mutes, unpack(unmuted)) end
return 1
