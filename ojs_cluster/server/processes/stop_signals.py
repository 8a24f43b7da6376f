"""Which signals stop a process."""

from __future__ import annotations

import signal


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return SIGTERM, SIGINT and, unless it is ignored, SIGHUP.

    ``nohup`` ignores SIGHUP for the program it starts; to
    handle it anyway would end a server with its terminal. An ignored SIGINT means less: shells
    ignore it for every program that they start in the background.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return (signal.SIGTERM, signal.SIGINT)
    return (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
