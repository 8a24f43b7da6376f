"""Templates of commands and responses, and the sample that they are rendered from."""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final

from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.http.app import App
from ojs_cluster.keys import Shard
from ojs_cluster.store.ground.lease_ids import new_prefix

_MAX_TEMPLATES: Final = 2048
"""Maximum number of templates of one kind, about 2 KB each. Clients choose names of queues and
types, so a full cache is emptied."""

# The values of the sample that the readable path renders.
ID: Final = "01962222-7777-7ccc-8ddd-eeeeeeeeeeee"
ARGS: Final = b'["sample args"]'
REQUEST_ID: Final = "sample-request"
QUEUE, TYPE, ATTEMPTS, ATTEMPT = b"sample.queue", b"sample.type", b"71001", b"82002"
WORKER, LEASE, RESULT = "sample-worker", "sample-lease", b'"sample result"'
CREATED_MS, STARTED_MS, FINISHED_MS = 86_400_000, 172_800_000, 259_200_000
PREFIX: Final = new_prefix(Shard(0, "0", 0))
CREATED, STARTED, FINISHED = map(format_ms, (CREATED_MS, STARTED_MS, FINISHED_MS))


class Template:
    """Bytes with gaps.

    Args:
        sample: the bytes.
        gaps: the parts of the sample that are replaced, at each place where they occur.
    """

    def __init__(self, sample: bytes, *gaps: bytes) -> None:
        pattern = re.compile(b"|".join(map(re.escape, gaps)))
        order = [gaps.index(gap) for gap in pattern.findall(sample)]
        if set(order) != set(range(len(gaps))):
            raise ValueError(f"the sample lacks a gap of {gaps!r}: {sample!r}")
        text = pattern.sub(b"%b", sample.replace(b"%", b"%%"))
        pick: Callable[[tuple[bytes, ...]], Any] = itemgetter(*order)
        self.fill: Callable[[tuple[bytes, ...]], bytes] = lambda values: text % pick(values)
        """Return the bytes with these values in the gaps, in the order of ``gaps``."""


class Templates:
    """The templates of one process by any key.

    Args:
        app: the state of the process.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self._by_key: dict[tuple[Any, ...], Any] = {}

    def template(self, key: tuple[Any, ...], render: Callable[[], Any]) -> Any:
        """Return the templates of this key, which ``render`` returns when there are none yet."""
        found = self._by_key.get(key)
        if found is None:
            if len(self._by_key) >= _MAX_TEMPLATES:
                self._by_key.clear()
            found = self._by_key[key] = render()
        return found

    def get(self, key: tuple[Any, ...]) -> Any:
        """Return the templates of this key; None if there are none yet."""
        return self._by_key.get(key)
