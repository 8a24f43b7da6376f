"""Which suite files run, where they are, and which ones cannot pass.

A new feature adds its suites only here.
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
    "agent",
    "ext-admin-api",
    "ext-backpressure",
    "ext-dead-letter",
    "ext-durable-execution",
    "ext-encryption",
    "ext-fair-scheduling",
    "ext-graceful-shutdown",
    "ext-job-versioning",
    "ext-multi-tenancy",
    "ext-observability",
    "ext-progress",
    "ext-rate-limiting",
    "ext-schema-registry",
    "ext-webhooks",
)

IMPOSSIBLE: Final[Mapping[str, str]] = {
    "level-1-reliable/retry/retry-error-history-tracked.json": (
        "expects errors[].type ConnectionTimeout, RateLimitExceeded and InternalServerError, "
        "but its requests send no type: only a server that guesses from messages could pass"
    ),
}
"""Files that no correct server passes. They run, and passing one is a failure."""

SLOW: Final = frozenset(
    {
        "level-2-scheduled/cron/cron-fires-on-schedule.json",
        "level-2-scheduled/cron/cron-overlap-prevention.json",
    }
)
"""Files that wait for minutes of real time: more than three together."""

ALWAYS_SLOW_ON: Final = frozenset({"valkey-cluster"})
"""Topologies that run the slow files every time; the others run them in `make soak`. Every server
fires a cron job by the same scripts, and waiting on all four would make `make test` too slow.
"""

ONLY_IN_SOAK: Final = frozenset({"redis-standalone"})
"""Topologies that `make soak` runs alone. The cluster runs the same Redis server every time, and a
standalone server runs every time as well.
"""

HOW_TO_GET_SUITES: Final = (
    "no conformance suites: clone https://github.com/openjobspec/ojs-conformance beside this "
    "repository, or set OJS_CONFORMANCE_SUITES to its suites folder"
)

_BESIDE: Final = Path(__file__).parents[3] / "ojs-conformance" / "suites"


def suites_root() -> Path | None:
    """Return the folder of the suites: OJS_CONFORMANCE_SUITES, or a clone beside this one."""
    named = os.environ.get("OJS_CONFORMANCE_SUITES")
    root = Path(named) if named else _BESIDE
    return root if root.is_dir() else None


def folders(chosen: str | None) -> tuple[str, ...]:
    """Return folders below the root of the suites: ``chosen`` is comma separated, or "all"."""
    if not chosen:
        return DEFAULT_FOLDERS
    if chosen == "all":
        return (".",)
    return tuple(folder.strip().strip("/") for folder in chosen.split(","))


def files(root: Path, chosen: str | None) -> Iterator[Path]:
    """Return the suite files of the chosen folders, in a fixed order.

    Raises:
        FileNotFoundError: a folder has no suite file, which may be a typing mistake.
    """
    for folder in folders(chosen):
        found = sorted((root / folder).rglob("*.json"))
        if not found:
            raise FileNotFoundError(f"no suite files in {root / folder}")
        yield from found
