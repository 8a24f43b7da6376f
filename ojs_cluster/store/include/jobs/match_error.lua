-- A pattern matches a name exactly, or by its beginning when it ends in '.*' and the name goes on.
-- Twin of core/jobs/retry.py. The names are those of `list` from `first` on.
local function is_non_retryable(patterns, list, first)
    for pattern in string.gmatch(patterns or '', '[^\n]+') do
        local stem = string.match(pattern, '^(.*)%.%*$')
        for i = first, #list do
            local name = list[i]
            if name == pattern or
                (stem and #name > #stem and string.sub(name, 1, #stem) == stem) then
                return true
            end
        end
    end
    return false
end
