"""The wall clock of a process, which a test sets and moves, by libfaketime (Debian: faketime).

Only the wall clock is wrong, as on a machine without NTP: monotonic clocks go on.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

FAKETIME = shutil.which("faketime")


class WrongClock:
    """The wall clock of the processes that get ``env``. They see a change within a second.

    Args:
        directory: a directory for the file that says how wrong the clock is.
        ahead_s: how far the clock is ahead at first, in seconds; negative if it is behind.
    """

    def __init__(self, directory: Path, ahead_s: int) -> None:
        assert FAKETIME is not None, "the test needs faketime"
        self._file = directory / "clock"
        self.set(ahead_s)
        library = subprocess.run(
            [FAKETIME, "-m", "-f", "+1s", "printenv", "LD_PRELOAD"],
            capture_output=True,
            text=True,
            check=True,
        )
        self.env = {
            "LD_PRELOAD": library.stdout.strip(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, ahead_s: int) -> None:
        """Step the clock."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead_s:+d}s\n")
        new.replace(self._file)
