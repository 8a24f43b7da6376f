-- A job, an alias or nothing, with the shard's clock: ages are counted where the job lives.
-- Memory: no-writes.
-- KEYS: 1 job hash.
-- Returns: {now, fields}
--@include now
return {now, redis.call('HGETALL', KEYS[1])}
