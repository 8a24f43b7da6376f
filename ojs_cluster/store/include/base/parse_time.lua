-- Parses a time: '' for none, 'a<ms>' or 's<ms>' for a Unix time, 'r<ms>' for a time from now. Returns the Unix
-- time in ms. The envelope lacks the times of 's' and 'r'. For these it returns a second value: the time to
-- show in the envelope.
local function parse_time(text)
    if text == '' then return nil end
    local at = tonumber(string.sub(text, 2))
    local kind = string.sub(text, 1, 1)
    if kind == 'a' then return at end
    if kind == 'r' then at = now + at end
    return at, at
end
