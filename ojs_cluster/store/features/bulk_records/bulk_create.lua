-- Transition: (nothing) -> running, for a bulk operation.
-- Pre:  fewer operations than the maximum are running. The dry run exists, and no operation has followed it.
-- Post: the operation is stored, and the scheduler continues it after the given time. If there are too many
--       operations, the script has removed the ended operation whose retention ends first. The dry run names the
--       operation.
-- Memory: allow-oom; adds 50 KiB.
-- KEYS: 1 bulk:<id>, 2 bulk_running, 3 bulk_ended, 4 bulk:<id> of the dry run that it follows, if any.
-- ARGV: 1 id, 2 maximum number of running operations, 3 maximum number of operations, 4 ms until the scheduler
--       continues it, then names and values of the fields.
-- Returns: {'ok', fields} | {'full', running operations} | {'missing'} without the dry run | {'followed', id of
--          the operation that has followed it}
--@include keys now preflight remove_one set_deadline
local operation_key, RUNNING, ENDED, dry_run_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, max_running, max_operations = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local delay_ms = tonumber(ARGV[4])
-- A repetition after a lost reply finds the operation, and changes nothing.
if redis.call('EXISTS', operation_key) == 1 then return {'ok', redis.call('HGETALL', operation_key)} end
if dry_run_key then
    if redis.call('EXISTS', dry_run_key) == 0 then return {'missing'} end
    local follower = redis.call('HGET', dry_run_key, 'followed_by')
    if follower then return {'followed', follower} end
end
local running = redis.call('ZCARD', RUNNING)
if running >= max_running then return {'full', running} end
local oldest
if running + redis.call('ZCARD', ENDED) >= max_operations then
    oldest = redis.call('ZRANGE', ENDED, 0, 0)[1]
    if oldest then preflight_key(bulk_key(oldest)) end
end
run_preflight()
-- The dry run may be the oldest operation, which is then removed.
if dry_run_key then redis.call('HSET', dry_run_key, 'followed_by', id) end
if oldest then
    redis.call('UNLINK', bulk_key(oldest))
    remove_member(ENDED, oldest)
end
redis.call('HSET', operation_key, 'state', 'running', 'created', now, 'version', 0, unpack(ARGV, 5))
set_deadline(RUNNING, id, now + delay_ms)
return {'ok', redis.call('HGETALL', operation_key)}
