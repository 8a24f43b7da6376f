"""Names of a job hash's fields: the Python twin of the table in ``lua/include/job.lua``.

Short because every stored job repeats them. A test compares the two.
"""

from __future__ import annotations

from typing import Final

ENVELOPE: Final = b"e"
"""The immutable part of the envelope: JSON bytes without the closing brace."""
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
"""The moment a relative schedule became; an absolute one is in the envelope as it was sent."""
EXPIRES_SHOWN: Final = b"xa"
ATTEMPT: Final = b"a"
ENQUEUED: Final = b"n"
STARTED: Final = b"st"
FINISHED: Final = b"f"
DUE: Final = b"da"
DELAY: Final = b"dd"
WORKER: Final = b"w"
LEASE: Final = b"l"
DEADLINE: Final = b"d"
LEASE_MS: Final = b"lv"
RESULT: Final = b"rs"
ERRORS: Final = b"hn"
"""How many errors there have been; entry n lies in slot n modulo the number kept."""
ERROR_SLOT: Final = b"h"
DEAD: Final = b"dl"
EXPIRED: Final = b"ex"
REPLAYS: Final = b"rc"
ALIAS: Final = b"@"
