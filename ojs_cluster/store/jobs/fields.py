"""Names of a job hash's fields: the Python twin of the table in ``store/include/base/fields.lua``.

They are short because every stored job repeats them. A test compares the two tables.
"""

from __future__ import annotations

from typing import Final

ENVELOPE: Final = b"e"
"""The immutable part of the envelope that no other field has: JSON members without braces. An
imported job whose first members differ from those that this server writes has the whole JSON object
here; its first byte is the brace."""
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
"""Number of errors so far; entry n is in slot n modulo the number kept."""
ERROR_SLOT: Final = b"h"
DEAD: Final = b"dl"
EXPIRED: Final = b"ex"
REPLAYS: Final = b"rc"
ALIAS: Final = b"@"
WORKFLOW: Final = b"wf"
"""Id of the workflow the job is a step of."""
STEP: Final = b"ws"
"""The job's position among the workflow's nodes."""
PARENTS: Final = b"pr"
"""JSON array: the results of the earlier steps."""
PARENT_NAMES: Final = b"pn"
"""JSON array: the names of those steps, '' for a step without one; absent when none has one."""
UNIQUE: Final = b"uq"
"""Fingerprint whose unique lock the job holds. With a trailing + the lock stays after the job has
ended; otherwise it is released then."""
TRANSACTION: Final = b"@t"
"""In an alias that points to its own shard: the transaction that has reserved the id. In a job: the
transaction that has prepared it and will publish it."""
MAX_PER_SECOND: Final = b"ps"
"""The max_per_second that the job declared for its queue."""
TOMBSTONE: Final = b"@f"
"""In a tombstone, an alias that points to its own shard: the random text that a
producer must pass to store its job in place of the tombstone."""
FIXED: Final = b"fx"
"""Set when the job's id was fixed in advance. The job is kept for some time after its end, whatever
its retention is: a stalled process may try to store it again (see
``store/include/jobs/finish_job.lua``)."""
CANCELLED_KEEP_MS: Final = b"sp"
"""Set when the job's workflow was cancelled while the job was active. The job is cancelled instead
of running again. The value is how long it is then kept, in milliseconds."""
LIMIT: Final = b"rl"
"""The job's rate limit: key, packed limits, what to do at the limit (w, r or d)."""
TOKEN: Final = b"rt"
"""Number of the token request that was granted: the job may start, or has started. The suffix w
means that the rate limit counts starts per window."""
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
CHECKPOINT: Final = b"ck"
"""Set while the job has a checkpoint, which is in a key of its own: sequence, bytes, and time of
the last event."""
