-- The rule of every script: look at each derived key it may touch before the first write, touch no
-- key that a removal may have emptied, and so either do everything or nothing (docs/adr/006).
--
-- While a slot is moved key by key, part of its keys lie on the other node. Redis checks the keys
-- that are declared before a script starts. A key derived inside is met half way: the node that
-- gives the slot stops the script, the one that receives it takes the key for absent, and what was
-- written before stays. A command on two keys is refused by both nodes unless both keys are there;
-- and nothing moves while a script runs. A key that is absent cannot be told from one that has
-- moved, so a script that needs an absent one is refused, and repeated, until the slot has arrived.
local to_look, known = {}, {}
local function want(key)
    if known[key] then return end
    known[key] = true
    to_look[#to_look + 1] = key
end

-- Looks at what is wanted; in portions, because Lua's stack is finite.
local function look()
    for from = 1, #to_look, 1000 do
        redis.call('EXISTS', KEYS[1], unpack(to_look, from, math.min(from + 999, #to_look)))
    end
    to_look = {}
end

-- Removals from sorted sets are kept back to the end, one command for each set: a set that becomes
-- empty vanishes, and a slot that moves refuses it from then on.
local leaving = {}
local function take_out(zset, id)
    if not leaving[zset] then leaving[zset] = {} end
    table.insert(leaving[zset], id)
end

local function settle()
    for zset, ids in pairs(leaving) do
        for from = 1, #ids, 1000 do
            redis.call('ZREM', zset, unpack(ids, from, math.min(from + 999, #ids)))
        end
    end
end

-- The lowest score that `settle` will leave in a set, or nil.
local function first_left(zset)
    local gone = {}
    for _, id in ipairs(leaving[zset] or {}) do gone[id] = true end
    local rows = redis.call('ZRANGE', zset, 0, #(leaving[zset] or {}), 'WITHSCORES')
    for i = 1, #rows, 2 do
        if not gone[rows[i]] then return tonumber(rows[i + 1]) end
    end
end
