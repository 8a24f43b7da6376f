"""Answer the refreshes of pages: share what is rendered, and send nothing if nothing has changed.

Open pages refresh every few seconds. A refresh gets the content of the page without the frame
around it. Its ETag lets the browser keep what it has. Viewers of the same page share the text if
the page says what it shows (``Page.shows``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

_MAX_KEPT: Final = 50
"""Maximum number of kept fragments; the one that was used longest ago makes room."""
_MAX_SIZE: Final = 64 * 1024
"""Maximum size in bytes of a fragment that is kept."""


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


def _fragment(body: bytes) -> Fragment:
    return Fragment(body, f'"{blake2b(body, digest_size=12).hexdigest()}"')
