"""How often each kill test runs: OJS_KILL_ROUNDS, once unless set (``make soak`` sets 20)."""

from __future__ import annotations

import os
from typing import Final

USUAL: Final = 1
ROUNDS: Final = int(os.environ.get("OJS_KILL_ROUNDS", USUAL))
