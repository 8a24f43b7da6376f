"""Scripts that count how often each of them is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from ojs_cluster.redis.script import Script


class Recording(Mapping[str, Script]):
    """The scripts of a store. Each look-up counts, because a store looks a script up when it runs
    it.
    """

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        self._scripts = scripts
        self.times: Counter[str] = Counter()

    @property
    def used(self) -> set[str]:
        """The names of the scripts that were used."""
        return set(self.times)

    def __getitem__(self, name: str) -> Script:
        self.times[name] += 1
        return self._scripts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scripts)

    def __len__(self) -> int:
        return len(self._scripts)
