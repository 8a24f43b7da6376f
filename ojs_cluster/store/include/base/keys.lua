-- The tag every key of this call carries, and the keys of jobs and queues found inside.
-- Twin of ojs_cluster/keys.py. KEYS[1] is always a key of the shard.
local P = string.match(KEYS[1], '^ojs:{[^}]*}:')
local function job_key(id) return P .. 'j:' .. id end
local function available_key(queue) return P .. 'q:' .. queue end
local function queue_key(queue) return P .. 'c:' .. queue end
local function minutes_key(queue) return P .. 'm:' .. queue end
local function held_key(queue) return P .. 'h:' .. queue end
local function thirst_key(queue) return P .. 'hq:' .. queue end
local function unasked_key(queue, key) return P .. 'hk:' .. queue .. ':' .. key end
local function asked_key(queue, key) return P .. 'ha:' .. queue .. ':' .. key end
local function limit_key(key) return P .. 'l:' .. key end
local function holders_key(key) return P .. 'lh:' .. key end
local function askers_key(key) return P .. 'la:' .. key end
local function dead_key(queue) return P .. 'd:' .. queue end
local function worker_key(id) return P .. 'w:' .. id end
local function workflow_keys(id) return P .. 'wf:' .. id, P .. 'wd:' .. id, P .. 'wr:' .. id end
local function waiting_key(shard) return P .. 'out:' .. shard end
local function deal_key(id) return P .. 'b:' .. id end
local function cron_key(name) return P .. 'cron:' .. name end
local DUE, ACTIVE, RUNNING, EXPIRING = P .. 'due', P .. 'act', P .. 'run', P .. 'exp'
local PENDING, FINISHED, DEAD, EVENTS = P .. 'pend', P .. 'fin', P .. 'dead', P .. 'ev'
local OUTBOX, OUT, PARKED = P .. 'ob', P .. 'out', P .. 'parked'
local OPENING, GRANTED, LIMITS, LOOKS = P .. 'open', P .. 'grants', P .. 'lims', P .. 'limlook'
local CLAIMS, AWAY, REFERENCES = P .. 'claims', P .. 'away', P .. 'refs'
local QUARANTINE = P .. 'quarantine'
local WAKE, SCHED = P .. 'wake', P .. 'sched'
