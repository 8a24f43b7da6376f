-- Returns when a job was created, in Unix milliseconds; 0 if bulk/candidates.py does not read the same number.
local function created_of(job)
    local value = job[F.created]
    return #value <= 15 and string.find(value, '^%-?%d+$') and tonumber(value) or 0
end
