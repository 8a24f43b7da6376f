-- Returns a time in ms; for a relative one also the value to show in the envelope.
local function parse_time(text)
    if text == '' then return nil end
    local at = tonumber(string.sub(text, 2))
    local kind = string.sub(text, 1, 1)
    if kind == 'a' then return at end
    if kind == 'r' then at = now + at end
    return at, at
end
