"""Made-up reports of cluster nodes, and the decisions of a sidecar's script."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.helm.chart import CHART

PROGRAM = "/usr/bin/awk"
AWK = CHART / "files" / "valkey_meet.awk"


@dataclass
class Member:
    """A node; its pod has the same number."""

    number: int
    host: str
    master: int | None
    slots: str = ""
    answers: bool = True
    flags: list[str] = field(default_factory=list)
    """What the others report about it: `fail`, `fail?`."""
    link: str = "up"
    offset: int = 1000
    state: str = "ok"
    id: str = ""
    pod: int = -1

    def __post_init__(self) -> None:
        self.id = self.id or f"{self.number:040x}"
        self.pod = self.number if self.pod < 0 else self.pod


def row(node: Member, seer: Member, nodes: Sequence[Member]) -> str:
    """Return a line of CLUSTER NODES."""
    role = "master" if node.master is None else "slave"
    master = "-" if node.master is None else by_number(nodes, node.master).id
    own = ["myself"] if node is seer else []
    flags = ",".join([*own, role, *([] if node is seer else node.flags)])
    link = "disconnected" if node.flags and node is not seer else "connected"
    address = f"10.0.0.{node.number}:6379@16379,pod-{node.pod}.valkey"
    return f"{node.id} {address} {flags} {master} 0 0 {node.number} {link} {node.slots}".rstrip()


def by_number(nodes: Sequence[Member], number: int) -> Member:
    return next(node for node in nodes if node.number == number)


def table(nodes: Sequence[Member], timeout_ms: int = 5000) -> str:
    """Return what the script reads from all nodes that answer."""
    lines: list[str] = []
    for seer in nodes:
        if not seer.answers:
            continue
        lines.append(f"NODE pod-{seer.pod}.valkey 10.0.0.{seer.number}:6379")
        lines += [row(node, seer, nodes) for node in nodes]
        lines += ["cluster-announce-human-nodename", seer.host]
        lines += ["cluster-node-timeout", str(timeout_ms)]
        lines += [f"cluster_state:{seer.state}\r", "# Replication\r"]
        if seer.master is not None:
            lines += ["role:slave\r", f"master_link_status:{seer.link}\r"]
            lines += ["master_sync_in_progress:0\r", f"slave_repl_offset:{seer.offset}\r"]
    return "\n".join(lines) + "\n"


def actions(
    nodes: Sequence[Member],
    at: Member,
    *,
    most: int = 1,
    pods: int | None = None,
    timeout_ms: int = 5000,
) -> list[str]:
    """Return the actions of the script beside a node, with this many pods."""
    count = len(nodes) if pods is None else pods
    variables = {"id": at.id, "all": count, "most": most, "patience": 6}
    done = subprocess.run(
        [
            PROGRAM,
            *[part for each in variables.items() for part in ("-v", "=".join(map(str, each)))],
            "-f",
            str(AWK),
        ],
        input=table(nodes, timeout_ms),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()
