-- The tag every key of this call carries, and the keys of jobs and queues found inside.
-- Twin of ojs_cluster/keys.py. KEYS[1] is always a key of the shard.
local P = string.match(KEYS[1], '^ojs:{[^}]*}:')
local function job_key(id) return P .. 'j:' .. id end
local function queue_available_key(queue) return P .. 'q:' .. queue end
local function queue_counters_key(queue) return P .. 'c:' .. queue end
local function queue_minutes_key(queue) return P .. 'm:' .. queue end
local function queue_blocked_key(queue) return P .. 'h:' .. queue end
local function token_demand_key(queue) return P .. 'hq:' .. queue end
local function token_unrequested_key(queue, key) return P .. 'hk:' .. queue .. ':' .. key end
local function token_requested_key(queue, key) return P .. 'ha:' .. queue .. ':' .. key end
local function rate_limit_key(key) return P .. 'l:' .. key end
local function token_holders_key(key) return P .. 'lh:' .. key end
local function token_requesters_key(key) return P .. 'la:' .. key end
local function queue_dead_key(queue) return P .. 'd:' .. queue end
local function worker_key(id) return P .. 'w:' .. id end
local function workflow_keys(id) return P .. 'wf:' .. id, P .. 'wd:' .. id, P .. 'wr:' .. id end
local function outbox_waiting_key(shard) return P .. 'out:' .. shard end
local function transaction_key(id) return P .. 'tx:' .. id end
local function cron_key(name) return P .. 'cron:' .. name end
local DUE = P .. 'due'
local ACTIVE = P .. 'active'
local EXECUTION_DEADLINES = P .. 'execution_deadlines'
local EXPIRING = P .. 'expiring'
local PENDING = P .. 'pending'
local FINISHED = P .. 'finished'
local DEAD = P .. 'dead'
local EVENTS = P .. 'events'
local QUARANTINE = P .. 'quarantine'
local OUTBOX, OUTBOX_DUE, OUTBOX_DEAD_LETTERS = P .. 'outbox', P .. 'outbox_due', P .. 'outbox_dead_letters'
local OUTBOX_BLOCKED_SHARDS = P .. 'outbox_blocked_shards'
local ALIAS_CLAIMS = P .. 'alias_claims'
local REFERENCES = P .. 'references'
local EXHAUSTED_QUEUES, TOKEN_GRANTS = P .. 'exhausted_queues', P .. 'token_grants'
local RATE_LIMITS, RATE_LIMIT_CHECKS = P .. 'rate_limits', P .. 'rate_limit_checks'
local WAKE_CHANNEL, SCHEDULE_CHANNEL = P .. 'wake_channel', P .. 'schedule_channel'
