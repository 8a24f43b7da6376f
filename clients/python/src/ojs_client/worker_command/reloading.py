"""Watch the source files of an application, for development."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

_CHECK_S: Final = 0.5
_IGNORED: Final = ("__pycache__", "node_modules")


def source_times(root: str) -> dict[str, int]:
    """Return when each Python file below a folder was changed, in nanoseconds.

    Hidden folders and virtual environments are left out.
    """
    times = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in _IGNORED
            and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
        ]
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                try:
                    times[path] = os.stat(path).st_mtime_ns
                except OSError:  # deleted since it was listed
                    continue
    return times


def watch_files(root: str, before: dict[str, int], changed: Callable[[str], None]) -> None:
    """Call ``changed`` with the path of a file that was changed, added or deleted, without end.

    Files are read in intervals, which works on every system and on shared folders of containers.

    Args:
        root: the folder.
        before: the times of its files at the start.
        changed: called once for all changes of an interval.
    """
    while True:
        time.sleep(_CHECK_S)
        now = source_times(root)
        if paths := {path for path, _ in before.items() ^ now.items()}:
            changed(os.path.relpath(min(paths), root))
        before = now
