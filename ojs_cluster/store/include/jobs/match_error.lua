-- Returns whether a name of an error matches a pattern of a retry policy's non-retryable errors: the name is
-- equal to the pattern, or the pattern is 'prefix.*' and the name is longer than the prefix, which it begins
-- with. `patterns`: separated by line feeds, nil for none. The names are in `list`, from position `first` on.
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
