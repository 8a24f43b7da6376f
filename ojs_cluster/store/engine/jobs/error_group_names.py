"""Name the group that counts an error: its type and its normalised message.

The server computes the name, not the script that counts the error. A script took quadratic time to
match Lua patterns with a client's text, and the master served no other client at that time.
"""

from __future__ import annotations

import re
from typing import Final

_MAX_MESSAGE: Final = 160
"""Maximum number of bytes of a message's JSON text that count."""
_TYPE: Final = re.compile(rb'\{"code":"[^"\\]*+","type":"([^"\\]*+)"')
_MESSAGE: Final = b'"message":"'
_TEXT: Final = re.compile(rb'(?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*+')
"""The text of a JSON string, or its beginning without an escape that was cut."""
_ESCAPE: Final = re.compile(rb"(\\u[0-9a-fA-F]{4}|\\.)")
_WORD: Final = re.compile(
    rb"""(?<![0-9a-zA-Z])(?:
    [0-9a-fA-F]++(?:-[0-9a-fA-F]++){4}(?![0-9a-zA-Z])  # a UUID
    |[a-zA-Z]*+[0-9][0-9a-zA-Z]*+)""",
    re.VERBOSE,
)
"""A word with a digit, or a UUID. A search begins only where a word does, so its time is linear."""
_REPEATED: Final = re.compile(rb"\*[*.:]++")


def error_group_name(error: bytes) -> str:
    r"""Return the type and the normalised message of an error, as JSON text, with ``\n`` between.

    Words with a digit (numbers, addresses, ids) differ between failures of one kind, so they become
    ``*``.

    Args:
        error: the JSON of a ``Failure``, which begins with its code, type and message.
    """
    kind = _TYPE.match(error)
    pieces = _ESCAPE.split(_message(error))
    pieces[::2] = [_WORD.sub(b"*", piece) for piece in pieces[::2]]  # the others are escapes
    message = b"".join(pieces)
    name = (kind[1] if kind else b"unknown") + b"\n" + _REPEATED.sub(b"*", message)
    return name.decode(errors="ignore")  # the cut may have split a character


def _message(error: bytes) -> bytes:
    """Return the JSON text of the message without quotes, cut after a number of bytes."""
    start = error.find(_MESSAGE)
    if start < 0:
        return b""
    start += len(_MESSAGE)
    # One byte more, so that an escape at the end stays whole.
    text = _TEXT.match(error, start, start + _MAX_MESSAGE + 1)
    found = b"" if text is None else text[0]
    if len(found) > _MAX_MESSAGE and found[-2:-1] != b"\\":
        found = found[:_MAX_MESSAGE]
    return found
