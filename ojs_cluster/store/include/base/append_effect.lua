-- The outbox: effects that must reach another shard, written by the transition that causes them. The script
-- returns its effects, and the caller delivers them at once. The scheduler delivers an entry that is still in
-- the outbox after OUTBOX_GRACE_MS. An effect may be delivered twice, so every effect is idempotent.
-- `outbox`: entry number -> 'kind attempts payload'; 'e<number>' -> error of the entry's last attempt;
-- 'seq' -> number of the last entry.
-- `outbox_due`: entry numbers by the time of the next attempt in ms.
--@include long_lists
local OUTBOX_GRACE_MS = 1500
local effects = {} -- number and entry of each effect of this script, for its reply
local function append_effect(kind, payload)
    local number = increment(OUTBOX, 'seq', 1, now)
    local entry = kind .. ' 0 ' .. payload
    redis.call('HSET', OUTBOX, number, entry)
    set_deadline(OUTBOX_DUE, string.format('%.0f', number), now + OUTBOX_GRACE_MS)
    effects[#effects + 1] = string.format('%.0f', number)
    effects[#effects + 1] = entry
end
