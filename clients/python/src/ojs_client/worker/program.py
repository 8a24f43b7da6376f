"""A worker as a program of its own: its log, and what its user sees when the server refuses it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final

from ojs_client.errors import ApiError

_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"
_HINTS: Final = {
    401: "; OJS_API_KEY or api_key names the API key",
    403: "; a worker needs an API key with the scope worker, for its queues",
}


@contextmanager
def as_program(url: str) -> Iterator[None]:
    """Log to stderr, and let the program end with one line if the server refuses the worker.

    Args:
        url: the address of the server.
    """
    _log_to_stderr()
    try:
        yield
    except ApiError as refusal:
        _show_in_one_line(refusal, url)
        raise


def _log_to_stderr() -> None:
    """Log the events of the library to stderr, unless the program has set up ``logging``."""
    library = logging.getLogger("ojs_client")
    if logging.getLogger().hasHandlers() or library.hasHandlers():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_FORMAT))
    # Handlers that the program adds to the root logger later would log each event twice.
    handler.addFilter(lambda _: not logging.getLogger().hasHandlers())
    library.addHandler(handler)
    if library.level == logging.NOTSET:
        library.setLevel(logging.INFO)


def _show_in_one_line(refusal: ApiError, url: str) -> None:
    """Let Python print one line, and no traceback, if no one catches this error.

    A traceback would only show this library. A program that handles uncaught exceptions in its own
    way gets this one as well.
    """
    if sys.excepthook is not sys.__excepthook__:
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if error is refusal:
            hint = _HINTS.get(refusal.status, "")
            print(f"{url} refuses this worker: {refusal}{hint}", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook
