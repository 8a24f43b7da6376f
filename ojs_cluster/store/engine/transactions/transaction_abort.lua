-- Transition: (uncommitted) -> aborted, for a cross-shard transaction that another process waits for.
-- Post: the transaction can no longer be committed. Its record holds only the field `aborted`.
-- Memory: allow-oom; adds 300 bytes for ten minutes.
-- KEYS: 1 transaction, 2 aborted_transactions, 3 applied_transactions.  ARGV: 1 transaction id.
-- Returns: 'committed' when it was committed before | 'aborted'
--@include now long_lists
local record, aborted_transactions, applied_transactions, id = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
if redis.call('HEXISTS', record, 'plan') == 1 then return 'committed' end
if redis.call('ZSCORE', applied_transactions, id) then return 'committed' end
local old_fields = {}
for _, name in ipairs(redis.call('HKEYS', record)) do
    if name ~= 'aborted' then old_fields[#old_fields + 1] = name end
end
redis.call('HSET', record, 'aborted', now)
redis.call('ZADD', aborted_transactions, now, id)
call_in_slices('HDEL', record, old_fields)
return 'aborted'
