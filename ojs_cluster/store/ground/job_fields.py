"""Names of a job hash's fields: the Python twin of the table in ``store/include/base/fields.lua``.

The names are short because every stored job repeats them. A test compares the two tables. Times are
Unix milliseconds, and durations are milliseconds.
"""

from __future__ import annotations

from typing import Final

ENVELOPE: Final = b"e"
"""The members of the envelope that have no field of their own: JSON without braces.

Only an edit changes them.

If the envelope of an imported job does not begin as those of this server do, the whole JSON object
is here. Only such a value begins with a brace."""
STATE: Final = b"s"
TYPE: Final = b"t"
QUEUE: Final = b"q"
PRIORITY: Final = b"p"
CREATED: Final = b"c"
MAX_ATTEMPTS: Final = b"m"
RETRY: Final = b"r"
NON_RETRYABLE: Final = b"nr"
ON_EXHAUSTION: Final = b"x"
VISIBILITY: Final = b"v"
TIMEOUT: Final = b"to"
EXPIRES: Final = b"xp"
SCHEDULED_SHOWN: Final = b"sa"
"""``scheduled_at`` as responses show it, computed from a relative time. If the client sent an
absolute time, the envelope keeps it as sent, and this field is absent."""
EXPIRES_SHOWN: Final = b"xa"
"""``expires_at`` as responses show it; see ``SCHEDULED_SHOWN``."""
ATTEMPT: Final = b"a"
ENQUEUED: Final = b"n"
STARTED: Final = b"st"
FINISHED: Final = b"f"
DUE: Final = b"da"
DELAY: Final = b"dd"
"""Backoff before the next attempt, in milliseconds."""
WORKER: Final = b"w"
LEASE: Final = b"l"
DEADLINE: Final = b"d"
"""Visibility deadline: when the lease ends unless a heartbeat extends it."""
LEASE_MS: Final = b"lv"
EXTENDED: Final = b"le"
"""When a heartbeat last extended a lease of the job. A value before STARTED belongs to an earlier
lease."""
RESULT: Final = b"rs"
ERRORS: Final = b"hn"
"""Number of errors so far. Error n is in field ``h<n modulo the number of errors kept>``."""
ERROR_SLOT: Final = b"h"
"""Prefix of the fields with the last errors; see ``ERRORS``."""
DEAD: Final = b"dl"
"""Set when the job is a dead letter."""
EXPIRED: Final = b"ex"
"""Set when the job was discarded because it expired before it started."""
REPLAYS: Final = b"rc"
"""Number of manual retries after the job was discarded."""
ALIAS: Final = b"@"
"""In an alias: the number of the shard that stores the job. A job has no such field."""
WORKFLOW: Final = b"wf"
"""Id of the workflow that the job belongs to."""
STEP: Final = b"ws"
"""Number of the job's step among the steps of the workflow, from 0."""
PARENTS: Final = b"pr"
"""JSON array: the results of the earlier steps that the job's step depends on."""
PARENT_NAMES: Final = b"pn"
"""JSON array: the names of the steps in PARENTS, '' for a step without a name.

Absent when no step has a name."""
UNIQUE: Final = b"uq"
"""Fingerprint of the unique lock that the job holds.

The lock is released when the job ends. With the suffix + it stays until its period is over."""
TRANSACTION: Final = b"@t"
"""Id of a cross-shard transaction.

In a prepared job: the transaction that will publish the job. In an alias that names its own shard:
the transaction that has reserved the id."""
MAX_PER_SECOND: Final = b"ps"
"""The max_per_second that the job declared for its queue."""
TOMBSTONE: Final = b"@f"
"""In a tombstone: a random text, which a producer must pass to replace the tombstone by its job.

A tombstone is an alias that names its own shard. An alias to another shard has the tombstone that
it has replaced in the field ``@u`` (``remove_alias.lua``)."""
FIXED_ID: Final = b"fx"
"""Set when the server chose the job's id before it stored the job (for a workflow or a cron job).

Such a job is kept for at least ``FIXED_KEEP_MS`` after its end, because a stalled process may try
to store it again (see ``store/include/jobs/removal_time.lua``)."""
CANCELLED_KEEP_MS: Final = b"sp"
"""Set when the job's workflow was cancelled while the job was active.

The job is then cancelled instead of running again. The value is the time for which the cancelled
job is kept, in milliseconds."""
LIMIT: Final = b"rl"
"""The job's rate limit: ``<key> <packed limits> <on_limit>``.

on_limit is w (wait), r (reschedule) or d (drop)."""
TOKEN: Final = b"rt"
"""Number of the token request that was granted: the job may start, or has started.

With the suffix w, the start must be reported to the shard of the rate limit key."""
OPEN_TOKEN_REQUEST: Final = b"ra"
"""Number of the token request that is not answered yet."""
TOKEN_REQUEST_COUNT: Final = b"rn"
"""Number of token requests that the job has made."""
HIDDEN: Final = b"hd"
"""Set when the dead letter was deleted, and the job is kept for a while to reserve its id."""
PROGRESS: Final = b"pg"
"""Progress of one attempt: the attempt, time of the last report, time of the last event, and the
number, which is empty when only data was reported."""
PROGRESS_DATA: Final = b"pd"
"""JSON object with ``message`` and ``data`` of the last progress report, if it had them."""
HISTORY: Final = b"hy"
"""What transitions have overwritten in the other fields; see ``engine/jobs/history_entries.py``."""
TENANT: Final = b"tn"
"""The tenant that the job's meta names. Absent in a job without a tenant."""
AGENT: Final = b"ag"
"""JSON object with the state of the agent that the job runs (``core/agents/record.py``)."""
HOLD: Final = b"ho"
"""Set while the agent is paused: ``w`` if the job may still be in a queue, or wait, or run, and
``h`` if it was taken out of its queue and is pending."""
PARKED: Final = b"pk"
"""Set while the job is parked (``store/include/queues/leave_parked.lua``)."""
KEEP: Final = b"kp"
"""Retention by the defaults of the job's queue: ``completed:discarded:cancelled`` in milliseconds.

A part is empty, or missing at the end, where the retention of the server holds."""
SUSPECT: Final = b"su"
"""1 from the death of a worker that held the job, until another worker ends an attempt of it."""
DEATHS: Final = b"wd"
"""Set when a worker died while it held the job: the number of these deaths that did not count, the
number of deaths of workers that ran the job alone, and the maximum number of attempts before
(``store/include/jobs/worker_death.lua``)."""
ALONE: Final = b"al"
"""Set while a worker runs the job alone: the time until which it gets no other job."""
CHECKPOINT: Final = b"ck"
"""Set while the job has a checkpoint, which is in a key of its own: sequence, bytes, and time of
the last event."""
EDITS: Final = b"ed"
"""How often the job was edited.

An edit replaces the envelope, so it compares this number with the one that it has read."""
