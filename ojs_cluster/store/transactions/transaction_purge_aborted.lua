-- Forgets, in one shard, transactions given up so long ago that no process still acts on them, and lists
-- those whose part was written as long ago: whether they may be forgotten, others know.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 the shard's transactions, 2 dealt.  ARGV: 1 age ms, 2 limit.
-- Returns: {how many were forgotten, transactions whose part was written}
--@include keys now long_lists
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1], 'LIMIT', 0, ARGV[2])
local parts = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[1], 'LIMIT', 0, ARGV[2])
for _, transaction in ipairs(old) do redis.call('EXISTS', KEYS[1], transaction_key(transaction)) end
for _, transaction in ipairs(old) do
    redis.call('DEL', transaction_key(transaction))
end
call_in_slices('ZREM', KEYS[1], old)
return {#old, parts}
