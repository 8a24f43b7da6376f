"""Sample which part of a process its processor time goes to, at each tick of the timer ``PROF``.

A folder on ``PYTHONPATH`` with a file ``sitecustomize.py`` that calls ``start`` makes every process
of Python below it write a file there, named by its process id: a line of JSON with the number of
samples of each part.
"""

from __future__ import annotations

import json
import linecache
import re
import signal
from collections import Counter
from pathlib import Path
from types import FrameType

_CALL = re.compile(r"\.(recv|send|poll)\(")
_PLAIN = "/fast_lane/plain/"
_EVERY = 100
"""Number of samples after which the file is written again."""


def part_of(frame: FrameType) -> str:
    """Return the part of an API process that a frame belongs to."""
    name = frame.f_code.co_filename
    call = _CALL.search(linecache.getline(name, frame.f_lineno))
    if call and call[1] == "poll":
        return "epoll_wait"
    if call and ("/redis/" in name or "/fast_lane/" in name):
        return f"{call[1]} of {'Redis' if '/redis/' in name else 'clients'}"
    if "/ojs_cluster/redis/" in name:
        return "Redis client"
    above: FrameType | None = frame
    while above is not None:
        if _PLAIN in above.f_code.co_filename and above.f_code.co_name in ("begin", "page"):
            return "body to command" if above.f_code.co_name == "begin" else "reply to response"
        above = above.f_back
    if "/fast_lane/" in name:
        return "connections and heads"
    return "trio" if "/trio/" in name or "outcome" in name else "other"


def start(folder: str, pid: int) -> None:
    """Sample this process until it ends."""
    counts: Counter[str] = Counter()
    path = Path(folder, str(pid))

    def sample(_: int, frame: FrameType | None) -> None:
        if frame is not None:
            counts[part_of(frame)] += 1
            if counts.total() % _EVERY == 0:
                path.write_text(json.dumps(counts))

    signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
