-- Returns how the id of a new job is reserved: nil if it is free, 'transaction' if the caller's transaction has reserved
-- it, 'tombstone' if it has a tombstone with one of the caller's tokens, and 'of another' if the caller may not use it.
-- `key`: the hash of the job. `transaction`: the id of the caller's transaction, '' for none. `tokens`: tombstone
-- tokens that the caller has, each with a blank before and after it.
local function find_reservation(key, transaction, tokens)
    if redis.call('EXISTS', key) == 0 then return nil end
    local by, token = unpack(redis.call('HMGET', key, F.transaction, F.tombstone))
    if transaction ~= '' and by == transaction then return 'transaction' end
    if token and string.find(tokens, ' ' .. token .. ' ', 1, true) then return 'tombstone' end
    return 'of another'
end
