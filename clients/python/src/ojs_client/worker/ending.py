"""End a process whose handlers do not end."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final, NoReturn

log: Final = logging.getLogger("ojs_client.worker")


def end_process() -> NoReturn:
    """End the process without waiting for its threads and tasks."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def end_without_threads(count: int) -> NoReturn:
    """End the process without waiting for the threads of handlers, whose jobs are requeued already.

    Args:
        count: the number of these threads.
    """
    if (error := sys.exception()) is not None:
        sys.excepthook(type(error), error, error.__traceback__)
    log.error("%d sync handlers did not end: exits without them", count)
    end_process()
