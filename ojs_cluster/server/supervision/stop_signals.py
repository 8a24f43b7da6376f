"""Which signals stop a process."""

from __future__ import annotations

import signal


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return SIGTERM, SIGINT and, unless it is ignored, SIGHUP.

    ``nohup`` starts a program with SIGHUP ignored. If the program handled SIGHUP anyway, it would
    stop when its terminal closes. SIGINT is returned even if it is ignored, because shells ignore
    it for every program that they start in the background.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return (signal.SIGTERM, signal.SIGINT)
    return (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
