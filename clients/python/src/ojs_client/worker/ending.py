"""End a process whose handlers do not end."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final, NoReturn

log: Final = logging.getLogger("ojs_client.worker")


def end_process(code: int) -> NoReturn:
    """End the process without waiting for its threads and tasks.

    Args:
        code: its exit code.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_without_threads(count: int, code: int) -> NoReturn:
    """End the process without waiting for the threads of handlers, whose jobs are requeued already.

    Args:
        count: the number of these threads.
        code: the exit code; with an exception it is 1.
    """
    if (error := sys.exception()) is not None:
        code = 1
        sys.excepthook(type(error), error, error.__traceback__)
    log.error("%d sync handlers did not end: exits without them", count)
    end_process(code)
