"""Scripts that remember which of them were asked for, and how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from ojs_cluster.redis.script import Script


class Recording(Mapping[str, Script]):
    """A store's scripts. Each look-up counts: a store looks a script up when it runs it."""

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        self._scripts = scripts
        self.times: Counter[str] = Counter()

    @property
    def used(self) -> set[str]:
        """The names of the scripts that were asked for."""
        return set(self.times)

    def __getitem__(self, name: str) -> Script:
        self.times[name] += 1
        return self._scripts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scripts)

    def __len__(self) -> int:
        return len(self._scripts)
