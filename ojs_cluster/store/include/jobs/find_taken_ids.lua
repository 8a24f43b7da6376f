-- Checks whether the ids of new jobs are free. The hash of job i is KEYS[after + i], for i from 1 to
-- `job_count`.
-- transaction: the id of the caller's transaction, '' for none. tokens: tombstone tokens that the caller has,
-- each with a blank before and after it.
-- The caller may use two kinds of ids that are not free: its transaction has reserved the id, or the id has a
-- tombstone with one of the tokens. Sets reserved[i] to 'transaction' or 'tombstone' for them.
-- Returns the script's reply for the first id that the caller may not use, otherwise nil.
local function find_taken(job_count, after, transaction, tokens, reserved)
    for i = 1, job_count do
        if redis.call('EXISTS', KEYS[after + i]) == 1 then
            local by, token = unpack(redis.call('HMGET', KEYS[after + i], F.transaction, F.tombstone))
            if transaction ~= '' and by == transaction then reserved[i] = 'transaction'
            elseif token and string.find(tokens, ' ' .. token .. ' ', 1, true) then reserved[i] = 'tombstone'
            else return {'exists', i, read_existing(KEYS[after + i])} end
        end
    end
end
