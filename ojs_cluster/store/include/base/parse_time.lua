-- Parses a time that a client requested: '' for none, 'a<ms>' for a Unix time that the job's envelope has,
-- 's<ms>' for a Unix time that it lacks, 'r<ms>' for a time from now. Returns the Unix time in ms. For 's' and
-- 'r' it returns a second value: the time that responses add to the envelope.
local function parse_time(text)
    if text == '' then return nil end
    local at = tonumber(string.sub(text, 2))
    local kind = string.sub(text, 1, 1)
    if kind == 'a' then return at end
    if kind == 'r' then at = now + at end
    return at, at
end
