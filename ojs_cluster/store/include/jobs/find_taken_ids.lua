-- The ids of an enqueue, whose hashes are KEYS[after + 1] and on: `reserved` says of each whether the deal has
-- reserved it ('deal'), or a fence stands there that the caller knows ('fence'). `fences`: their marks.
-- Returns the reply where another has an id.
local function find_taken(jobs, after, deal, fences, reserved)
    for i = 1, jobs do
        if redis.call('EXISTS', KEYS[after + i]) == 1 then
            local by, mark = unpack(redis.call('HMGET', KEYS[after + i], F.deal, F.fence))
            if deal ~= '' and by == deal then reserved[i] = 'deal'
            elseif mark and string.find(fences, ' ' .. mark .. ' ', 1, true) then reserved[i] = 'fence'
            else return {'exists', i, read_existing(KEYS[after + i])} end
        end
    end
end
