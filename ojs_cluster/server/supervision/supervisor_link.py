"""The child's end of the socket pair between a child process and its supervisor.

The child sends ``READY`` once, and a heartbeat every second while its event loop runs. The
supervisor kills a child that sends nothing for the watchdog time (``OJS_WATCHDOG``). When the
supervisor ends, the child reads end of file. A thread waits for it, because a child must end even
if its event loop is blocked.
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
"""Exit code of a child that did not stop in time after its supervisor had ended."""


class SupervisorLink:
    """The child's end of the socket pair."""

    def __init__(self, fd: int) -> None:
        """Use the socket with the descriptor ``fd``."""
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(True)

    def ready(self) -> None:
        """Report to the supervisor that this process works."""
        with contextlib.suppress(OSError):  # the supervisor has ended; `watch` handles that
            self._socket.sendall(READY)

    def send_heartbeat(self) -> None:
        """Send a heartbeat to the supervisor without waiting."""
        # The socket's buffer may be full, or the supervisor may have ended.
        with contextlib.suppress(OSError):
            self._socket.send(HEARTBEAT, socket.MSG_DONTWAIT)

    def watch(self, on_supervisor_end: Callable[[], None], *, exit_after_s: float) -> None:
        """Start a thread that stops this process when the supervisor has ended.

        Args:
            on_supervisor_end: called in the thread; starts an orderly stop and must not block.
            exit_after_s: seconds after the call until the thread ends the process.
        """

        def wait_for_end() -> None:
            with contextlib.suppress(OSError):
                while self._socket.recv(64):
                    pass
            on_supervisor_end()
            time.sleep(exit_after_s)
            os._exit(EXIT_ORPHANED)

        threading.Thread(target=wait_for_end, name="supervisor-watch", daemon=True).start()
