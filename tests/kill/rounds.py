"""How often each kill test runs: OJS_KILL_ROUNDS, twice unless set (``make soak`` sets 20)."""

from __future__ import annotations

import os
from typing import Final

USUAL: Final = 2
ROUNDS: Final = int(os.environ.get("OJS_KILL_ROUNDS", USUAL))
