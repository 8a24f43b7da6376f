"""Which signals stop a process."""

from __future__ import annotations

import signal


def stop_signals() -> tuple[signal.Signals, ...]:
    """Give SIGTERM, SIGINT and, unless it is ignored, SIGHUP.

    `nohup` ignores SIGHUP for the program it starts; taking the signal all the same would end a
    server with the terminal that it was started from. A SIGINT that is ignored means less: shells
    do that to every program they start in the background.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return (signal.SIGTERM, signal.SIGINT)
    return (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
