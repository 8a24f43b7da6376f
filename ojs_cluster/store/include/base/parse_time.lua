-- Parses a time: '' for none, 'a<ms>' absolute, or 'r<ms>' relative to now. Returns the absolute time in ms.
-- For a relative time it also returns the time that the envelope shows, since the client has sent none.
local function parse_time(text)
    if text == '' then return nil end
    local at = tonumber(string.sub(text, 2))
    local kind = string.sub(text, 1, 1)
    if kind == 'a' then return at end
    if kind == 'r' then at = now + at end
    return at, at
end
