-- Read a hash and the clock of its shard in one step, so that the caller can compute ages.
-- Memory: no-writes.
-- KEYS: 1 hash of a job, an alias, a lock or a cron job.
-- Returns: {now, names and values of the fields; empty when there is no hash}
--@include now
return {now, redis.call('HGETALL', KEYS[1])}
