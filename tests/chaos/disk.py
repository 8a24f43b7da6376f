"""A server whose disk is full.

A limit on the size of files (RLIMIT_FSIZE) lets each write beyond it fail, without root and for one
process alone. By default the kernel would also kill that process (SIGXFSZ), so a small program
starts the server and ignores this signal.

* A server that saves snapshots refuses writes (MISCONF) while the last one has failed.
* A server with an AOF that is written every second refuses writes while it cannot write the AOF.
* A server that writes its AOF before each response ends, because it cannot keep its promise.
"""

from __future__ import annotations

import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ojs_cluster.server.embedded.servers import EmbeddedNode, ServerBinary

_ROOM: Final = 8192
"""Size in bytes that a file may still have. The file of the cluster's nodes needs less."""
_STARTER: Final = "#!/bin/sh\ntrap '' XFSZ\nexec {server} \"$@\"\n"
SNAPSHOTS: Final = "3600 1000000"
"""A rule for snapshots that no run reaches. Without a rule, a failed snapshot refuses no write."""


def with_full_disks(binary: ServerBinary, directory: Path) -> ServerBinary:
    """Return a program that starts the server such that its disk can be full."""
    directory.mkdir(parents=True, exist_ok=True)
    starter = directory / "server.sh"
    starter.write_text(_STARTER.format(server=binary.path))
    starter.chmod(0o700)
    return replace(binary, path=starter)


def fill(node: EmbeddedNode) -> None:
    """Let writes to files fail from now on."""
    _, hard = resource.prlimit(node.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (_ROOM, hard))


def empty(node: EmbeddedNode) -> None:
    """Let writes to files succeed again."""
    _, hard = resource.prlimit(node.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (hard, hard))


def set_snapshots(node: EmbeddedNode, rule: str = SNAPSHOTS) -> None:
    """Set when the server makes snapshots; an empty rule stands for never."""
    _command(node, "CONFIG", "SET", "save", rule)


def snapshot(node: EmbeddedNode) -> str:
    """Make a snapshot; return ``ok`` or ``err``."""
    _command(node, "BGSAVE", "SCHEDULE")
    while (info := _persistence(node))["rdb_bgsave_in_progress"]:
        time.sleep(0.05)
    return str(info["rdb_last_bgsave_status"])


def set_fsync(node: EmbeddedNode, when: str) -> None:
    """Choose when the server writes its AOF to the disk: ``always`` or ``everysec``."""
    _command(node, "CONFIG", "SET", "appendfsync", when)


def writes_aof(node: EmbeddedNode) -> bool:
    """Return whether the last write of the AOF has succeeded."""
    return bool(_persistence(node)["aof_last_write_status"] == "ok")


def _persistence(node: EmbeddedNode) -> dict[str, Any]:
    with node.client() as client:
        info: dict[str, Any] = client.info("persistence")
        return info


def _command(node: EmbeddedNode, *words: str) -> None:
    with node.client() as client:
        client.execute_command(*words)  # type: ignore[no-untyped-call]
