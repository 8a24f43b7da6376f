-- Lists old alias claims, or jobs whose references are to be checked.
-- Memory: no-writes.
-- KEYS: 1 alias_claims or references.
-- ARGV: 1 minimum age of an entry (ms), 2 maximum number of ids.
-- Returns: ids
--@include now
local index, age, limit = KEYS[1], ARGV[1], ARGV[2]
return redis.call('ZRANGEBYSCORE', index, '-inf', now - age, 'LIMIT', 0, limit)
