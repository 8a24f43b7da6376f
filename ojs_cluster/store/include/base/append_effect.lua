-- The outbox: effects that must reach another shard, written by the transition that causes them. The
-- caller delivers the effects that the script returns at once. The scheduler delivers an entry that is
-- still there after a grace period. Delivery is at least once, so every effect is idempotent.
-- `outbox`: entry number -> 'kind attempts payload', and 'e<number>' -> error of its last attempt.
-- `outbox_due`: entry numbers by the time of the next attempt in ms.
--@include long_lists
local OUTBOX_GRACE_MS = 1500
local effects = {}
local function append_effect(kind, payload)
    local number = increment(OUTBOX, 'seq', 1, now)
    local entry = kind .. ' 0 ' .. payload
    redis.call('HSET', OUTBOX, number, entry)
    set_deadline(OUTBOX_DUE, string.format('%.0f', number), now + OUTBOX_GRACE_MS)
    effects[#effects + 1] = string.format('%.0f', number)
    effects[#effects + 1] = entry
end
