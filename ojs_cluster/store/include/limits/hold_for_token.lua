-- Jobs that need a token of their rate limit's key before they may start (docs/adr/011): fetch holds
-- them back, with the place that they had, and asks the key's shard for tokens.
local ASKED_MOST, KEYS_MOST = 100, 16
local ASK_AGAIN_MS = 300 * 1000 -- an ask may be lost with a master: see limit_return.lua
local waiting = {} -- queue -> key -> what is known of the jobs that wait for its tokens
local coming = {} -- sorted set -> scores and members to be added

local function put_in(zset, score, id)
    local list = coming[zset] or {}
    coming[zset] = list
    list[#list + 1], list[#list + 2] = score, id
end

local function settle_coming()
    for zset, list in pairs(coming) do call_in_slices('ZADD', zset, list) end
    coming = {}
end

-- How many jobs may ask: `most` in all, `each` of one key, of the first `keys` keys that may ask. `width`
-- 0: the best jobs. Else: as many keys as that, for a few jobs each, and none that has an ask under way:
-- that key is full, or will answer soon.
local function asks_of(width, most)
    if width == 0 then return {most = most, each = most, keys = KEYS_MOST, full = true} end
    return {most = math.max(most, width), each = math.max(1, math.floor(most / width)), keys = width}
end

-- Reads, before the first write, the best of a queue's jobs that may ask: of each key one more than may.
local function look_at_waiting(queue, asks)
    local keys, most = {}, asks.most
    waiting[queue.name] = keys
    local rows = redis.call('ZRANGE', queue.thirst, 0, asks.keys - 1, 'WITHSCORES')
    for i = 1, #rows, 2 do
        local key, fresh = rows[i], tonumber(rows[i + 1]) < 0
        if most <= 0 or not fresh and not asks.full then break end
        local unasked = token_unrequested_key(queue.name, key)
        local best, jobs = redis.call('ZRANGE', unasked, 0, math.min(most, asks.each), 'WITHSCORES'), {}
        for j = 1, #best, 2 do
            local found = redis.call('HMGET', job_key(best[j]), F.limit, F.asks)
            if found[1] then
                table.insert(jobs, {id = best[j], score = tonumber(best[j + 1]), limit = found[1],
                    asks = tonumber(found[2]) or 0, old = true})
            else
                preflight_key(job_key(best[j]))
            end
        end
        keys[key] = {jobs = jobs, known = true, fresh = fresh}
        most = most - math.min(#jobs, asks.each)
        for _, name in ipairs({unasked, token_requested_key(queue.name, key), TOKEN_GRANTS, OUTBOX, OUTBOX_DUE}) do preflight_key(name) end
    end
end

-- A job that was met leaves the available ones for those that wait.
local function hold_back(queue, id, job, score)
    local key, keys = limit_of(job), waiting[queue.name]
    keys[key] = keys[key] or {jobs = {}}
    table.insert(keys[key].jobs, {id = id, score = score, limit = job[F.limit],
        asks = job[F.asks] or 0})
    remove_member(queue.available, id)
    put_in(queue.held, score, id)
end
