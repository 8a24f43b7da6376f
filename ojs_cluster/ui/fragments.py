"""Answer the refreshes of pages: share what is rendered, and send nothing if nothing has changed.

Open pages refresh every few seconds. A refresh gets the content of the page without the frame
around it. Its ETag lets the browser keep what it has, and the browser names the rows of tables that
it has (header ``X-Rows``), which are not sent again: ``readFresh`` of ``app.js`` puts them back.
Viewers of the same page share the text if the page says what it shows (``Page.shows``).
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

_MAX_KEPT: Final = 50
"""Maximum number of kept fragments; the one that was used longest ago makes room."""
_MAX_SIZE: Final = 64 * 1024
"""Maximum size in bytes of a fragment that is kept."""
_MAX_ROWS: Final = 300
"""Maximum number of rows that a browser names: the names lie in a header."""
_ROW: Final = re.compile(rb"<tr\b.*?</tr>", re.DOTALL)
_NAME_BYTES: Final = 9
"""Size of the name of a row in bytes. With a short one, a producer could make the row of one of its
jobs look like that of another.
"""
_AGE: Final = re.compile(rb"(<time [^>]*>)([^<]*)(</time>)")
"""A time relative to now: it changes with every refresh, when nothing else of the row does."""
_WITHOUT_AGE: Final = rb"\1\3"


@dataclass(frozen=True, slots=True)
class Fragment:
    """The rendered content of a page.

    Attributes:
        body: the HTML.
        etag: the header ``ETag``.
    """

    body: bytes
    etag: str


class Fragments:
    """Keeps the last rendered fragments of one process."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Fragment] = OrderedDict()

    def get(self, name: Hashable, render: Callable[[], bytes]) -> Fragment:
        """Return the fragment with a name.

        Args:
            name: all that the fragment depends on; None if that is not known.
            render: renders the fragment.
        """
        if name is None:
            return _fragment(render())
        found = self._kept.get(name)
        if found is None:
            found = _fragment(render())
            if len(found.body) > _MAX_SIZE:
                return found
            while len(self._kept) >= _MAX_KEPT:
                self._kept.popitem(last=False)
            self._kept[name] = found
        else:
            self._kept.move_to_end(name)
        return found


def without_known_rows(body: bytes, known: str) -> tuple[bytes, str]:
    """Return a fragment without the rows that the browser has, and the names of all rows.

    A row that is left out becomes one with its place in the last fragment, and with the words of
    its times: those change without end.

    Args:
        body: the fragment.
        known: the names of the rows of the last fragment, separated by commas.
    """
    places = {name: place for place, name in enumerate(known.split(",")[:_MAX_ROWS]) if name}
    names: list[str] = []

    def shorten(row: re.Match[bytes]) -> bytes:
        content = _AGE.sub(_WITHOUT_AGE, row[0])
        name = urlsafe_b64encode(blake2b(content, digest_size=_NAME_BYTES).digest()).decode()
        names.append(name)
        place = places.get(name)
        if place is None:
            return row[0]
        ages = b"".join(b"<td>%b</td>" % words for _, words, _ in _AGE.findall(row[0]))
        return b'<tr data-same="%d">%b</tr>' % (place, ages)

    start = max(0, body.find(b'id="refreshed"'))
    shortened = _ROW.sub(shorten, body[start:])
    return body[:start] + shortened, ",".join(names[:_MAX_ROWS])


def _fragment(body: bytes) -> Fragment:
    return Fragment(body, f'"{blake2b(body, digest_size=12).hexdigest()}"')
