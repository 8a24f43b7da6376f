-- What is to be done for a decided transaction; its parts are read one by one.
-- Memory: no-writes.
-- KEYS: 1 b:.
-- Returns: {now, plan or nil}
--@include now
return {now, redis.call('HGET', KEYS[1], 'plan')}
