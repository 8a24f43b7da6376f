-- One line of the shard's bounded event stream, written by the transition itself.
-- ARGV[1] of every script that emits is the stream's length; 0 switches events off.
local EVENTS_KEPT = tonumber(ARGV[1])
local function emit(kind, id, job, ...)
    if EVENTS_KEPT == 0 then return end
    redis.call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*',
        't', kind, 'j', id, 'y', job[F.type], 'q', job[F.queue], ...)
end
