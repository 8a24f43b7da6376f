-- The outbox: effects that must reach another shard, written with the transition that owes them.
-- The caller's process delivers what the script returns in `effects` at once; the scheduler's
-- drainer takes an entry up when it is still there after a grace period. Delivery is at least
-- once, so every effect is idempotent. `ob`: entry number -> 'kind attempts payload', and 'e<number>'
-- -> why its last try failed; `out`: entry numbers by the ms of the next try.
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
