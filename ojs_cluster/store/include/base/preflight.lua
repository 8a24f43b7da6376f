-- The preflight: before its first write, each script reads every key that it may touch and that KEYS does not
-- name. After it has removed the last member of a set, it does not touch the set again. So a script either
-- applies completely or changes nothing (docs/adr/007).
--
-- While Redis moves a slot from a source node to a target node, some of its keys are on one node and some on
-- the other. Redis checks the keys in KEYS before a script starts, but not the keys that the script derives.
-- When a derived key is missing, the source node stops the script, and the target node treats the key as
-- absent. Writes before that command stay. Both nodes refuse a command on two keys unless both keys are on the
-- node. So the preflight reads each derived key together with DECLARED_KEY, which is KEYS[1]. No key moves while
-- a script runs. A script cannot tell an absent key from a moved one. So a script that needs an absent key is
-- refused, and the client repeats it until the slot has moved.
--@include keys long_lists
local unchecked_keys, known_keys
local function preflight_key(key)
    if not known_keys then unchecked_keys, known_keys = {}, {} end
    if known_keys[key] then return end
    known_keys[key] = true
    unchecked_keys[#unchecked_keys + 1] = key
end

-- Reads the collected keys.
local function run_preflight()
    if unchecked_keys then call_in_slices('EXISTS', DECLARED_KEY, unchecked_keys) end
    unchecked_keys = {}
end
