"""Read single keys from the terminal."""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_MAX_BYTES: Final = 256
_SEQUENCE: Final = re.compile("\x1b(?:(?:\\[\\[?|O)[0-?]*[ -/]*[@-~]|.)?", re.DOTALL)
"""What the terminal sends for arrows and other special keys, and for a key with Alt."""


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
        yield _pressed_keys
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)


def keys_of(sent: bytes) -> str:
    """Return the keys for which a terminal has sent these bytes, in lower case.

    Special keys such as arrows are left out. Each sends several characters, of which the last are
    no keys of the user.
    """
    return _SEQUENCE.sub("", sent.decode(errors="replace")).lower()


def _no_keys(wait_s: float) -> str:
    time.sleep(wait_s)
    return ""


def _pressed_keys(wait_s: float) -> str:
    handle = sys.stdin.fileno()
    ready, _, _ = select.select([handle], [], [], wait_s)
    if not ready:
        return ""
    sent = os.read(handle, _MAX_BYTES)
    return keys_of(sent) if sent else "q"  # the terminal is closed
