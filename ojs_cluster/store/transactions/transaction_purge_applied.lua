-- Parts of transactions that were written long ago are forgotten, save those of transactions that are still to be
-- carried out: these are looked at again later.
-- Pre:  a part was not met again in the last `age` ms: who met it may be about to do so once more.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 the shard's dealt.  ARGV: 1 age ms, then per transaction: it, '1' to keep it.
-- Returns: how many were forgotten
--@include now long_lists
local over = {}
for i = 2, #ARGV, 2 do
    local written = redis.call('ZSCORE', KEYS[1], ARGV[i])
    if written and tonumber(written) <= now - ARGV[1] then
        if ARGV[i + 1] == '1' then redis.call('ZADD', KEYS[1], now, ARGV[i])
        else over[#over + 1] = ARGV[i] end
    end
end
call_in_slices('ZREM', KEYS[1], over)
return #over
