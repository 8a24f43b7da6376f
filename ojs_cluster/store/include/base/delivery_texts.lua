-- The stored texts of webhook deliveries. Like deliver_event.lua, this file creates functions only when there are
-- subscriptions.
local join_texts, split_entry
if not tonumber(ARGV[1]) then
    -- Joins texts, each after its length and a colon (store/features/webhooks/deliveries.py splits them).
    join_texts = function(...)
        local texts = {...}
        for i, value in ipairs(texts) do
            if type(value) == 'number' then value = string.format('%.17g', value) end
            texts[i] = #value .. ':' .. value
        end
        return table.concat(texts)
    end

    -- Returns the position and the job id of each event of an entry, as they are stored.
    split_entry = function(position, ids)
        if not string.find(ids, ' ', 1, true) then return {{join_texts(position), join_texts('j', ids)}} end
        local texts = {}
        for id in string.gmatch(ids, '%S+') do
            local at = position ~= '' and position .. '-' .. #texts + 1 or ''
            texts[#texts + 1] = {join_texts(at), join_texts('j', id)}
        end
        texts[#texts][1] = join_texts(position) -- the last event of an entry has no number
        return texts
    end
end
