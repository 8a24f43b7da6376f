"""A child process's side of its bond with the supervisor.

The two share a socket pair. The child says `ready` on it, and every second that its event loop
turns: a supervisor that hears nothing kills it (`OJS_WATCHDOG`). Its end of file means that the
other side is gone, whatever ended it. A thread watches, not a trio task: a child whose event loop
hangs must end as well.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable

READY = b"ready\n"
BEAT = b"."
BEAT_S = 1.0
EXIT_ORPHANED = 70


class ParentLink:
    """The child's end of the socket pair."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(True)

    def ready(self) -> None:
        """Tell the supervisor that this process does its work now."""
        with contextlib.suppress(OSError):  # the supervisor is gone: the watcher acts on that
            self._socket.sendall(READY)

    def beat(self) -> None:
        """Tell the supervisor that the event loop turns; never waits."""
        with contextlib.suppress(OSError):  # full because nobody reads, or gone: as above
            self._socket.send(BEAT, socket.MSG_DONTWAIT)

    def watch(self, on_gone: Callable[[], None], *, exit_after_s: float) -> None:
        """Call `on_gone` (from another thread) when the parent is gone, then end the process.

        Args:
            on_gone: starts an orderly stop; must not block.
            exit_after_s: seconds left for it before `os._exit`.
        """

        def run() -> None:
            with contextlib.suppress(OSError):
                while self._socket.recv(64):
                    pass
            on_gone()
            time.sleep(exit_after_s)
            os._exit(EXIT_ORPHANED)

        threading.Thread(target=run, name="parent-watch", daemon=True).start()
