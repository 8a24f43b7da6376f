"""A worker as a program of its own: its log, and what its user sees when the server refuses it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final
from weakref import WeakKeyDictionary

from ojs_client.errors import ApiError

_LEVEL: Final = logging.INFO - 1
"""Level for the events of the library: programs that set INFO set another number."""
_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"
_HINTS: Final = {
    401: "; OJS_API_KEY or api_key names the API key",
    403: "; a worker needs an API key with the scope worker, for its queues",
}
_lines: Final[WeakKeyDictionary[ApiError, str]] = WeakKeyDictionary()
"""What Python prints for each refusal of a worker that no one catches."""


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Log the events of the library to stderr, unless the program sets up ``logging``."""
    root, library = logging.getLogger(), logging.getLogger("ojs_client")
    if root.hasHandlers() or library.hasHandlers():
        yield
        return
    level, propagate = library.level, library.propagate

    def restore_level() -> None:
        if library.level == _LEVEL:  # not one that the program has set meanwhile
            library.setLevel(level)

    def has_no_other_handler(record: logging.LogRecord) -> bool:
        if not root.hasHandlers():
            return True
        # The program has set up ``logging`` since: its level and its handlers decide.
        restore_level()
        if propagate and logging.getLogger(record.name).isEnabledFor(record.levelno):
            root.handle(record)
        return False

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(_FORMAT))
    handler.addFilter(has_no_other_handler)
    library.addHandler(handler)
    # Otherwise later handlers of the root logger would get events below its level.
    library.propagate = False
    if level == logging.NOTSET:
        library.setLevel(_LEVEL)
    try:
        yield
    finally:
        library.removeHandler(handler)
        library.propagate = propagate
        restore_level()


@contextmanager
def refusal_in_one_line(url: str, is_refusal: Callable[[ApiError], bool]) -> Iterator[None]:
    """Let Python print one line, and no traceback, if the server refuses the worker.

    A traceback would only show this library. A program that handles uncaught exceptions in its own
    way gets this one as well.

    Args:
        url: the address of the server.
        is_refusal: whether an error ended the worker. Others come from the application.
    """
    try:
        yield
    except ApiError as error:
        if is_refusal(error):
            _lines[error] = refusal_line(url, error)
            if sys.excepthook is sys.__excepthook__:
                sys.excepthook = _show
        raise


def refusal_line(url: str, refusal: ApiError) -> str:
    """Return one line that says why a server refuses a worker, and what helps."""
    return f"{url} refuses this worker: {refusal}{_HINTS.get(refusal.status, '')}"


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    line = _lines.get(error) if isinstance(error, ApiError) else None
    if line is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print(line, file=sys.stderr)
