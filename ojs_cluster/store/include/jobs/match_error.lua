-- Returns whether a name matches a non-retryable pattern: exactly, or by prefix when the pattern ends in '.*'
-- and the name is longer than the prefix. The names are those of `list` from position `first`.
local function is_non_retryable(patterns, list, first)
    for pattern in string.gmatch(patterns or '', '[^\n]+') do
        local prefix = string.match(pattern, '^(.*)%.%*$')
        for i = first, #list do
            local name = list[i]
            if name == pattern or
                (prefix and #name > #prefix and string.sub(name, 1, #prefix) == prefix) then
                return true
            end
        end
    end
    return false
end
