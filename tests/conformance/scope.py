"""Which suite files run, where they are found, and which one cannot be passed.

This is the one place to widen when a feature is built.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

DEFAULT_FOLDERS: Final = (
    "level-0-core",
    "level-1-reliable",
    "level-2-scheduled",
    "level-3-workflows",
    "level-4-advanced",
    "ext-admin-api",
    "ext-dead-letter",
)

IMPOSSIBLE: Final[Mapping[str, str]] = {
    "level-1-reliable/retry/retry-error-history-tracked.json": (
        "expects errors[].type ConnectionTimeout, RateLimitExceeded and InternalServerError, "
        "but its requests send no type: only a server that guesses from messages could pass"
    ),
}
"""Files that no honest server passes. They run all the same, and passing one is a failure."""

SLOW: Final = frozenset(
    {
        "level-2-scheduled/cron/cron-fires-on-schedule.json",
        "level-2-scheduled/cron/cron-overlap-prevention.json",
    }
)
"""Files that wait for minutes of the wall clock: more than three together."""

ALWAYS_SLOW_ON: Final = frozenset({"valkey-cluster", "redis-cluster"})
"""Topologies that run the slow files every time; the others do in `make soak`. A single server
fires a cron job by the same scripts, and waiting for it on all four would take `make test` past
what anybody waits for."""

HOW_TO_GET_SUITES: Final = (
    "no conformance suites: clone https://github.com/openjobspec/ojs-conformance beside this "
    "repository, or set OJS_CONFORMANCE_SUITES to its suites folder"
)

_BESIDE: Final = Path(__file__).parents[3] / "ojs-conformance" / "suites"


def suites_root() -> Path | None:
    """The suites' folder: OJS_CONFORMANCE_SUITES, else the clone beside this repository."""
    named = os.environ.get("OJS_CONFORMANCE_SUITES")
    root = Path(named) if named else _BESIDE
    return root if root.is_dir() else None


def folders(chosen: str | None) -> tuple[str, ...]:
    """Folders below the suites' root: `chosen` is comma separated, or "all"."""
    if not chosen:
        return DEFAULT_FOLDERS
    if chosen == "all":
        return (".",)
    return tuple(folder.strip().strip("/") for folder in chosen.split(","))


def files(root: Path, chosen: str | None) -> Iterator[Path]:
    """The suite files of the chosen folders, in a fixed order.

    Raises `FileNotFoundError` for a folder without a suite file: a typing
    mistake must not look like a green run.
    """
    for folder in folders(chosen):
        found = sorted((root / folder).rglob("*.json"))
        if not found:
            raise FileNotFoundError(f"no suite files in {root / folder}")
        yield from found
