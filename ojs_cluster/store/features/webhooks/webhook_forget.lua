-- Removes fields of the counts of webhook subscriptions that were deleted.
-- Memory: allow-oom; adds nothing.
-- KEYS: 1 webhook_counts.
-- ARGV: 1.. fields.
-- Returns: 'ok'
redis.call('HDEL', KEYS[1], unpack(ARGV))
return 'ok'
