"""A child process's end of the socket pair that it shares with the supervisor.

The child sends ``ready``, and a heartbeat every second while its event loop runs. The supervisor
kills a child that sends nothing (``OJS_WATCHDOG``). End of file means that the other process has
ended. A thread watches for it, not a trio task: a child whose event loop is blocked must end too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable

READY = b"ready\n"
HEARTBEAT = b"."
HEARTBEAT_S = 1.0
EXIT_ORPHANED = 70


class SupervisorLink:
    """The child's end of the socket pair."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(True)

    def ready(self) -> None:
        """Report to the supervisor that this process works."""
        with contextlib.suppress(OSError):  # the supervisor has ended: the watcher handles that
            self._socket.sendall(READY)

    def beat(self) -> None:
        """Send a heartbeat to the supervisor; never wait."""
        with contextlib.suppress(OSError):  # the buffer is full, or the supervisor has ended
            self._socket.send(HEARTBEAT, socket.MSG_DONTWAIT)

    def watch(self, on_gone: Callable[[], None], *, exit_after_s: float) -> None:
        """Call ``on_gone`` in another thread when the supervisor has ended, then end the process.

        Args:
            on_gone: starts an orderly stop; must not block.
            exit_after_s: seconds until ``os._exit``.
        """

        def run() -> None:
            with contextlib.suppress(OSError):
                while self._socket.recv(64):
                    pass
            on_gone()
            time.sleep(exit_after_s)
            os._exit(EXIT_ORPHANED)

        threading.Thread(target=run, name="parent-watch", daemon=True).start()
