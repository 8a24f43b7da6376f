-- Checks the ids of an enqueue, whose hashes are KEYS[after + 1] and on. Sets `reserved` of each id that the
-- transaction has reserved ('transaction'), or whose tombstone has one of the given tokens ('tombstone').
-- Returns the script's reply when another job, alias or tombstone has an id.
local function find_taken(jobs, after, transaction, tokens, reserved)
    for i = 1, jobs do
        if redis.call('EXISTS', KEYS[after + i]) == 1 then
            local by, token = unpack(redis.call('HMGET', KEYS[after + i], F.transaction, F.tombstone))
            if transaction ~= '' and by == transaction then reserved[i] = 'transaction'
            elseif token and string.find(tokens, ' ' .. token .. ' ', 1, true) then reserved[i] = 'tombstone'
            else return {'exists', i, read_existing(KEYS[after + i])} end
        end
    end
end
