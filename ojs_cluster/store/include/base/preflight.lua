-- The preflight: each script reads every derived key that it may touch before its first write. It also
-- touches no key that a removal may have emptied. So it either applies completely or changes nothing
-- (docs/adr/007).
--
-- While a slot is moved key by key, some of its keys are on the other node. Redis checks the declared keys
-- before a script starts, but not the derived ones. For a missing derived key the source node stops the
-- script, the target node treats the key as absent, and earlier writes stay. Both nodes refuse a command
-- on two keys unless both keys are there. No key moves while a script runs. A script cannot tell an absent
-- key from a moved one, so a script that needs an absent key is refused and repeated until the slot has
-- moved.
--@include long_lists
local unchecked_keys, known_keys
local function preflight_key(key)
    if not known_keys then unchecked_keys, known_keys = {}, {} end
    if known_keys[key] then return end
    known_keys[key] = true
    unchecked_keys[#unchecked_keys + 1] = key
end

-- Reads the collected keys.
local function run_preflight()
    if unchecked_keys then call_in_slices('EXISTS', KEYS[1], unchecked_keys) end
    unchecked_keys = {}
end
