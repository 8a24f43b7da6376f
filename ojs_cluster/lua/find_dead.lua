-- Workers of one shard that have been silent for too long move from watched to lost.
-- Post: each is in `lost` with the ms of its death until `bury` says its jobs are recovered, so
--       a scheduler that dies in between leaves the work to the next.
-- KEYS: 1 the shard's watch, 2 lost.  ARGV: 1 limit.
-- Returns: {now, ms of the next possible death or -1, lost workers: id, ms of death, ...}
--@include now last first_left
local silent = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, worker in ipairs(silent) do
    take_out(KEYS[1], worker)
    redis.call('ZADD', KEYS[2], now, worker)
end
local reply = {now, first_left(KEYS[1]) or -1}
settle()
for _, item in ipairs(redis.call('ZRANGE', KEYS[2], 0, ARGV[1] - 1, 'WITHSCORES')) do
    reply[#reply + 1] = item
end
return reply
