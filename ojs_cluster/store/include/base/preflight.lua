-- The rule of every script: look at each derived key it may touch before the first write, touch no
-- key that a removal may have emptied, and so either do everything or nothing (docs/adr/007).
--
-- While a slot is moved key by key, part of its keys lie on the other node. Redis checks the keys
-- that are declared before a script starts. A key derived inside is met half way: the node that
-- gives the slot stops the script, the one that receives it takes the key for absent, and what was
-- written before stays. A command on two keys is refused by both nodes unless both keys are there;
-- and nothing moves while a script runs. A key that is absent cannot be told from one that has
-- moved, so a script that needs an absent one is refused, and repeated, until the slot has arrived.
--@include long_lists
local unchecked_keys, known
local function preflight_key(key)
    if not known then unchecked_keys, known = {}, {} end
    if known[key] then return end
    known[key] = true
    unchecked_keys[#unchecked_keys + 1] = key
end

-- Looks at what is wanted.
local function run_preflight()
    if unchecked_keys then call_in_slices('EXISTS', KEYS[1], unchecked_keys) end
    unchecked_keys = {}
end
