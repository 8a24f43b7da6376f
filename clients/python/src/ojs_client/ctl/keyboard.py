"""Read single keys from the terminal."""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

_MAX_BYTES: Final = 256
_SEQUENCE: Final = re.compile("\x1b(?:(?:\\[\\[?|O)[0-?]*[ -/]*[@-~]|.)?", re.DOTALL)
"""What the terminal sends for arrows and other special keys, and for a key with Alt."""
_UNFINISHED: Final = re.compile(rb"\x1b(?:(?:\[\[?|O)[0-?]*[ -/]*)?\Z")
"""The beginning of such a sequence, whose rest may still be under way, or the key Escape."""
_REST_S: Final = 0.05


@contextmanager
def keyboard() -> Iterator[Callable[[float], str]]:
    """Let the terminal send each key at once while the block runs.

    Yields:
        A function that waits for keys for some seconds and returns those that were pressed, as
        ``keys_of`` does; none without a terminal.
    """
    try:
        import termios
        import tty
    except ModuleNotFoundError:  # Windows
        yield _no_keys
        return
    if not sys.stdin.isatty():
        yield _no_keys
        return
    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)
    try:
        tty.setcbreak(handle, termios.TCSADRAIN)  # keeps what was typed already
        yield partial(pressed_keys, handle)
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)


def keys_of(sent: bytes) -> str:
    """Return the keys for which a terminal has sent these bytes, in lower case.

    Special keys such as arrows are left out. Each sends several characters, of which the last are
    no keys of the user.
    """
    return _SEQUENCE.sub("", sent.decode(errors="replace")).lower()


def pressed_keys(handle: int, wait_s: float) -> str:
    """Wait for keys, and return those that were pressed, as ``keys_of`` does.

    Args:
        handle: the descriptor that the terminal sends the keys to.
        wait_s: the maximum time in seconds until the first one.
    """
    sent = b""
    while select.select([handle], [], [], wait_s)[0]:
        part = os.read(handle, _MAX_BYTES)
        if not part:
            return "q"  # the terminal is closed
        sent += part
        if not _UNFINISHED.search(sent):
            break
        wait_s = _REST_S
    return keys_of(sent)


def _no_keys(wait_s: float) -> str:
    time.sleep(wait_s)
    return ""
