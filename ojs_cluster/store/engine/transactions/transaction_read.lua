-- Reads the plan of a committed transaction. The caller reads its portions one by one.
-- Memory: no-writes.
-- KEYS: 1 transaction.
-- Returns: {now, plan or nil}
--@include now
return {now, redis.call('HGET', KEYS[1], 'plan')}
