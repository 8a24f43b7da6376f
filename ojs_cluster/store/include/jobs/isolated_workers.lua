-- Which workers get no job. `quiet_workers` has up to two members for a worker, each with the time (ms) until which it
-- holds: its id, while the worker is quiet (set_quiet_flag.lua), and `isolation_of` its id, while it runs a suspect alone
-- (store/engine/fetch/isolation.py). So a worker that is resumed stays isolated, and one whose isolation ends stays quiet.
local MAX_ISOLATED = 8
local MAX_NAMES = 1000

-- No id of a worker has a line break.
local function isolation_of(worker) return worker .. '\nisolated' end

-- Returns whether another worker may be isolated. If so many workers are quiet that some are not read, none may.
local function may_isolate(quiet_workers)
    local names = redis.call('ZRANGEBYSCORE', quiet_workers, '(' .. now, '+inf', 'LIMIT', 0, MAX_NAMES)
    local count = 0
    for _, name in ipairs(names) do
        if string.find(name, '\n', 1, true) then count = count + 1 end
    end
    return count < MAX_ISOLATED and #names < MAX_NAMES
end
