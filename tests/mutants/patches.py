"""The kept list of mutants: realistic bugs, each with the tests that must notice it.

One TOML file per area beside this module holds entries of this form::

    [[patch]]
    name = "an ack does not check the lease"
    file = "ojs_cluster/store/engine/jobs/ack.lua"
    before = '''text that occurs once in the file'''
    after = '''text that replaces it'''
    tests = ["tests/store/jobs/test_lease.py::test_stale_worker_cannot_ack"]
"""

from __future__ import annotations

import ast
import tomllib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, zip_longest
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[2]
AREAS = (
    "store",
    "lua",
    "redis",
    "scheduler",
    "core",
    "http",
    "push",
    "ui",
    "client",
    "ctl",
    "helm",
    "server",
    "webhooks",
    "archive",
    "queue_deletion",
    "bulk",
    "tenants",
)
ROOMS: dict[str, tuple[str, ...]] = {
    "Lua": (".lua",),
    "queue deletion": ("/queue_deletion/", "/queue_drains/", "lifecycle.", "/delete_queue."),
    "bulk": ("/features/bulk", "/http/handlers/bulk/", "/core/bulk/"),
    "tenants": ("tenant",),
    "webhooks": ("webhook", "/deliver_event."),
    "archive": ("archive",),
    "http/push": ("/http/push", "/http/websocket/", "/features/events/"),
    "http": ("/http/",),
    "server": ("ojs_cluster/server/",),
    "ui": ("ojs_cluster/ui/",),
    "clients/python": ("clients/python/",),
    "core": ("ojs_cluster/core/",),
    "redis": ("ojs_cluster/redis/",),
    "scheduler": ("scheduler/",),
    "helm": ("helm/",),
}
"""Rooms of the product. A file belongs to each room of which its path has a text, so a script
counts for its room and for Lua."""


class NotApplicable(Exception):
    """The text that a mutant replaces does not occur exactly once."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One bug.

    Attributes:
        area: name of the TOML file that lists it.
        name: what goes wrong, as a sentence.
        file: path of the file that is changed, relative to the repository.
        before: text that occurs once in that file.
        after: text that replaces it.
        tests: pytest node ids, relative to the repository; at least one must fail.
    """

    area: str
    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]

    def mutated(self, text: str) -> str:
        """Return ``text``, the content of ``file``, with the bug in it.

        Raises:
            NotApplicable: ``before`` does not occur exactly once.
        """
        found = text.count(self.before)
        if found != 1:
            raise NotApplicable(f"'{self.name}': its text occurs {found} times in {self.file}")
        return text.replace(self.before, self.after)


def load(area: str) -> list[Mutant]:
    """Return the mutants of one area, in the order of its file."""
    listed = tomllib.loads((Path(__file__).parent / f"{area}.toml").read_text())
    return [
        Mutant(
            area=area,
            name=entry["name"],
            file=entry["file"],
            before=entry["before"],
            after=entry["after"],
            tests=tuple(entry["tests"]),
        )
        for entry in listed.get("patch", [])
    ]


def rooms_of(file: str) -> list[str]:
    """Return the rooms to which a file of the product belongs."""
    return [room for room, texts in ROOMS.items() if any(text in file for text in texts)]


def load_all() -> list[Mutant]:
    """Return the mutants of every area."""
    return [mutant for area in AREAS for mutant in load(area)]


def sample(mutants: Sequence[Mutant], number: int, seed: int) -> list[Mutant]:
    """Return ``number`` mutants drawn at random, as many of each room as there are.

    A mutant that belongs to several rooms is drawn for the one with the fewest mutants, one that
    belongs to none for its area.
    """
    sizes = Counter(room for mutant in mutants for room in rooms_of(mutant.file))
    drawn: defaultdict[str, list[Mutant]] = defaultdict(list)
    for mutant in Random(seed).sample(mutants, len(mutants)):
        rooms = rooms_of(mutant.file) or [mutant.area]
        drawn[min(rooms, key=lambda room: sizes[room])].append(mutant)
    turns = chain.from_iterable(zip_longest(*(drawn[room] for room in sorted(drawn))))
    return [mutant for mutant in turns if mutant][:number]


@lru_cache
def tests_in(path: Path) -> frozenset[str]:
    """Return the names of the test functions at the top level of a file."""
    return frozenset(
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    )


def is_test(node_id: str) -> bool:
    """Tell whether a node id names a file of tests, or a test function, that is there.

    Parameters are not checked.
    """
    file, _, name = node_id.partition("::")
    path = ROOT / file
    return path.is_file() and (not name or name.partition("[")[0] in tests_in(path))
