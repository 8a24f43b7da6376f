-- Read a job or an alias, with the clock of its shard: ages are counted by the clock of the owner shard.
-- Memory: no-writes.
-- KEYS: 1 job.
-- Returns: {now, names and values of the fields; empty when there is none}
--@include now
return {now, redis.call('HGETALL', KEYS[1])}
