-- Effects of a job for the shards of its unique lock and of its rate limit key.

-- Returns the payload of the effect that releases the lock of a job. `unique`, `replays`: fields of the job.
local function unlock_payload(unique, id, replays) return unique .. ' ' .. id .. ' ' .. (replays or '0') end

-- Returns the job's token to the shard of its key, or cancels the job's token request. `outcome`: 'u' when the
-- job was not fetched (unused), 'r' when it was fetched and did not start (released), 's' when it started. A time
-- in ms may follow 'r' and 's': the worker wants no job of the key to start before that time.
local function return_token(id, job, outcome)
    local number = string.match(job[F.token] or job[F.open_token_request], '^%d+')
    append_effect('token_return', limit_of(job) .. ' ' .. outcome .. ' ' .. id .. '/' .. number)
    drop_fields(job_key(id), job, F.token, F.open_token_request)
end

-- Uses the token of a job that starts. The shard of the key counts the start only where the token ends in 'w'.
local function use_token(id, job)
    remove_member(TOKEN_GRANTS, id)
    local number, counted = string.match(job[F.token], '^(%d+)(w?)')
    if counted == 'w' then append_effect('token_start', limit_of(job) .. ' ' .. id .. '/' .. number) end
end
