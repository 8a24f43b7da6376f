-- Reads the fields that a promotion needs, without the envelope. A job that has expired is read completely.
-- Returns the table of the last job of the same type, if all fields are equal except `expires`, which the table
-- lacks. A field that is absent is false.
local latest = {} -- type -> job
local function load_for_promotion(key)
    local found = redis.call('HMGET', key, F.state, F.queue, F.type, F.priority, F.tenant, F.expires)
    local state, expires = found[1], found[6]
    if not state or expires and (tonumber(expires) or now + 1) <= now then return load_job(key) end
    if expires and not is_number(expires) then return nil, {'malformed'} end
    local last = latest[found[3]]
    if last and state == last[F.state] and found[2] == last[F.queue] and found[4] == last[F.priority]
        and found[5] == last[F.tenant] then return last end
    if not (found[2] and found[3] and (not found[4] or is_number(found[4]))) then return nil, {'malformed'} end
    local job = {[F.state] = state, [F.queue] = found[2], [F.type] = found[3], [F.priority] = found[4],
        [F.tenant] = found[5]}
    latest[found[3]] = job
    return job
end
