-- Names of the keys that a script derives: twin of ojs_cluster/keys.py. KEYS[1] is always a key of the shard,
-- so PREFIX, with the shard's hash tag, begins each of its keys. No other include reads KEYS or ARGV.
local DECLARED_KEY = KEYS[1] -- see preflight.lua
local PREFIX = string.match(KEYS[1], '^ojs:{[^}]*}:')
local function job_key(id) return PREFIX .. 'j:' .. id end
-- Returns the job id that the key of a job contains, after PREFIX and the two characters of 'j:'.
local function job_id_of(key) return string.sub(key, #PREFIX + 3) end
local function checkpoint_key(id) return PREFIX .. 'cp:' .. id end
local function queue_available_key(queue) return PREFIX .. 'q:' .. queue end
local function queue_counters_key(queue) return PREFIX .. 'c:' .. queue end
-- Returns the queue that the key of its counters contains, after PREFIX and the two characters of 'c:'.
local function queue_of(key) return string.sub(key, #PREFIX + 3) end
local function queue_minutes_key(queue) return PREFIX .. 'm:' .. queue end
local function queue_times_key(queue) return PREFIX .. 't:' .. queue end
local function queue_types_key(queue) return PREFIX .. 'ty:' .. queue end
local function type_hour_history_key(name) return PREFIX .. 'thh:' .. name end
local function queue_history_key(queue) return PREFIX .. 's:' .. queue end
local function tenant_queue_key(queue, tenant) return PREFIX .. 'tq:' .. queue .. ':' .. tenant end
local function tenant_turns_key(queue) return PREFIX .. 'tt:' .. queue end
local function tenant_counters_key(tenant) return PREFIX .. 'tc:' .. tenant end
local function queue_blocked_key(queue) return PREFIX .. 'h:' .. queue end
local function parked_jobs_key(queue, kind, tenant) return PREFIX .. 'pj:' .. queue .. ':' .. kind .. ':' .. tenant end
local function token_demand_key(queue) return PREFIX .. 'hq:' .. queue end
local function token_unrequested_key(queue, key) return PREFIX .. 'hk:' .. queue .. ':' .. key end
local function token_requested_key(queue, key) return PREFIX .. 'ha:' .. queue .. ':' .. key end
local function rate_limit_key(key) return PREFIX .. 'l:' .. key end
local function token_holders_key(key) return PREFIX .. 'lh:' .. key end
local function token_requesters_key(key) return PREFIX .. 'la:' .. key end
local function queue_dead_key(queue) return PREFIX .. 'd:' .. queue end
local function worker_key(id) return PREFIX .. 'w:' .. id end
local function workflow_keys(id) return PREFIX .. 'wf:' .. id, PREFIX .. 'wd:' .. id, PREFIX .. 'wr:' .. id end
local function outbox_waiting_key(shard) return PREFIX .. 'out:' .. shard end
local function webhook_pending_key(subscription) return PREFIX .. 'webhook_pending:' .. subscription end
local function transaction_key(id) return PREFIX .. 'tx:' .. id end
local function cron_key(name) return PREFIX .. 'cron:' .. name end
local function bulk_key(id) return PREFIX .. 'bulk:' .. id end
local DUE = PREFIX .. 'due'
local ACTIVE = PREFIX .. 'active'
local EXECUTION_DEADLINES = PREFIX .. 'execution_deadlines'
local EXPIRING = PREFIX .. 'expiring'
local PENDING = PREFIX .. 'pending'
local FINISHED = PREFIX .. 'finished'
local DEAD = PREFIX .. 'dead'
local EVENTS = PREFIX .. 'events'
local QUARANTINE = PREFIX .. 'quarantine'
local ERROR_GROUPS, ERROR_GROUP_TIMES = PREFIX .. 'error_groups', PREFIX .. 'error_group_times'
local OUTBOX, OUTBOX_DUE = PREFIX .. 'outbox', PREFIX .. 'outbox_due'
local OUTBOX_DEAD_LETTERS = PREFIX .. 'outbox_dead_letters'
local OUTBOX_BLOCKED_SHARDS = PREFIX .. 'outbox_blocked_shards'
local ALIAS_CLAIMS = PREFIX .. 'alias_claims'
local REFERENCES = PREFIX .. 'references'
local EXHAUSTED_QUEUES, TOKEN_GRANTS = PREFIX .. 'exhausted_queues', PREFIX .. 'token_grants'
local RATE_LIMITS, RATE_LIMIT_CHECKS = PREFIX .. 'rate_limits', PREFIX .. 'rate_limit_checks'
local HISTORY_TOTALS = PREFIX .. 'history_totals'
local WEBHOOK_DELIVERIES, WEBHOOK_DUE = PREFIX .. 'webhook_deliveries', PREFIX .. 'webhook_due'
local TENANT_WEIGHTS = PREFIX .. 'tenant_weights'
local WEBHOOK_COUNTS = PREFIX .. 'webhook_counts'
local WAKE_CHANNEL, SCHEDULE_CHANNEL = PREFIX .. 'wake_channel', PREFIX .. 'schedule_channel'
