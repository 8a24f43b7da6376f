"""Loads the Lua transitions: one file each, joined with the small pieces they include.

A line ``--@include keys now job`` is replaced by those files of ``lua/include/``. Joining at load
time, rather than Redis functions or ``require``, keeps every transition one self-contained script
that any Redis or Valkey since 7.0 runs, and that a reader can follow from top to bottom.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from ojs_cluster.redis.script import Script

VOLATILE = frozenset(
    {
        *("contact", "fetch", "heartbeat", "lead"),
        *("promote", "schema", "tidy"),
        *("archive_job", "cron_due", "find_dead", "look", "metrics"),
        *("limit_state", "limits_due", "limits_look"),
        *("old_claims", "outbox_due", "outbox_parked", "partitions", "peek", "queue_stats"),
    }
)
"""Scripts that wait for no confirmation, because nobody is promised what they write: leases and
signs of life, which a failover may forget as it may forget a worker; what is written again by the
next who looks. And those that only read what others will have confirmed."""

_INCLUDE = re.compile(r"^--@include (.+)$", re.MULTILINE)


def load_scripts(prelude: str = "") -> Mapping[str, Script]:
    """All transitions by name.

    Parameters
    ----------
    prelude: Lua put before every script. Tests pass one that wraps ``redis.call`` and refuses keys
        that a cluster would refuse only while it moves slots.
    """
    return _load(prelude)


@cache
def _load(prelude: str) -> Mapping[str, Script]:
    folder = files("ojs_cluster") / "lua"
    includes = {
        entry.name.removesuffix(".lua"): entry.read_text()
        for entry in (folder / "include").iterdir()
        if entry.name.endswith(".lua")
    }

    def expand(match: re.Match[str]) -> str:
        return "\n".join(includes[name] for name in match[1].split())

    return MappingProxyType(
        {
            # Each keeps the rule of ``lua/include/look.lua``; the tests' prelude enforces it.
            name: Script(
                name,
                (prelude + _INCLUDE.sub(expand, text)).encode(),
                looks_first=True,
                volatile=name in VOLATILE,
            )
            for entry in folder.iterdir()
            if entry.name.endswith(".lua")
            for name, text in [(entry.name.removesuffix(".lua"), entry.read_text())]
        }
    )
