-- Returns whether a name of an error matches a non-retryable pattern of a retry policy. A name matches an equal
-- pattern. It matches the pattern 'prefix.*' if it begins with the prefix and is longer.
-- `patterns`: separated by line feeds, nil for none. The names are in `names`, from position `first_name` on.
local function is_non_retryable(patterns, names, first_name)
    for pattern in string.gmatch(patterns or '', '[^\n]+') do
        local prefix = string.match(pattern, '^(.*)%.%*$')
        for i = first_name, #names do
            local name = names[i]
            if name == pattern or
                (prefix and #name > #prefix and string.sub(name, 1, #prefix) == prefix) then
                return true
            end
        end
    end
    return false
end
