"""Form one cluster of the nodes of an embedded installation, and read its current shape.

Every step checks the current state first, so the next start completes an interrupted one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis

from ojs_cluster.server.embedded.node import HOST, EmbeddedError, EmbeddedNode

SLOTS = 16_384

Await = Callable[[Callable[[], bool], str], None]
"""Waits until the condition holds; raises EmbeddedError with the text after a timeout."""


@dataclass(frozen=True, slots=True)
class ClusterNodeRow:
    """One line of CLUSTER NODES.

    Attributes:
        node: which of our nodes; rows of other addresses are left out.
        myself: the node that was asked.
        failed: marked as failing, or without an address.
        master_id: of the master it replicates, or ``-``.
    """

    node: EmbeddedNode
    myself: bool
    is_master: bool
    has_slots: bool
    failed: bool
    handshake: bool
    master_id: str


def form(nodes: Sequence[EmbeddedNode], master_count: int, wait: Await) -> None:
    """Assign slots to new masters, let all nodes meet, attach new replicas.

    Raises:
        EmbeddedError: through ``wait``.
    """
    for node in nodes[:master_count]:
        with node.client() as client:
            if _is_fresh(client):
                first = node.index * SLOTS // master_count
                last = (node.index + 1) * SLOTS // master_count - 1
                _command(client, "ADDSLOTSRANGE", first, last)
                # Distinct epochs from the start, because equal ones would collide.
                _command(client, "SET-CONFIG-EPOCH", node.index + 1)
    for node in nodes:
        with node.client() as client:
            for other in nodes:
                if other is not node:
                    _command(client, "MEET", HOST, other.port, other.bus_port)
    wait(lambda: _all_known(nodes), "every node knows every node")
    for node in nodes[master_count:]:
        _attach(node, nodes[(node.index - master_count) % master_count], nodes)
    wait(lambda: _all_ok(nodes), "every slot is served and every replica is in sync")
    wait(lambda: _all_agree(nodes), "every node knows who replicates whom")


def view(nodes: Sequence[EmbeddedNode]) -> dict[str, ClusterNodeRow]:
    """Return the rows by node id, as the first running node reports them.

    Raises:
        EmbeddedError: no node answers.
    """
    for node in nodes:
        if node.is_alive():
            with contextlib.suppress(redis.RedisError), node.client() as client:
                return _rows(client, nodes)
    raise EmbeddedError("no node answers CLUSTER NODES")


def _is_fresh(client: redis.Redis) -> bool:
    info = _info(client)
    return info["cluster_slots_assigned"] == "0" and info["cluster_known_nodes"] == "1"


def _attach(node: EmbeddedNode, master: EmbeddedNode, nodes: Sequence[EmbeddedNode]) -> None:
    """Make a new node a replica; a failover may have made an older one a master."""
    with node.client() as client:
        (own,) = (row for row in _rows(client, nodes).values() if row.myself)
        if own.is_master and not own.has_slots:
            with master.client() as other:
                master_id = _command(other, "MYID").decode()
            _command(client, "REPLICATE", master_id)


def _all_known(nodes: Sequence[EmbeddedNode]) -> bool:
    """Return whether every node knows every node by its current address."""
    for node in nodes:
        with node.client() as client:
            rows = _rows(client, nodes).values()
        if len(rows) != len(nodes) or any(row.handshake or row.failed for row in rows):
            return False
    return True


def _all_ok(nodes: Sequence[EmbeddedNode]) -> bool:
    for node in nodes:
        with node.client() as client:
            info = _info(client)
            if info["cluster_state"] != "ok" or info["cluster_slots_ok"] != str(SLOTS):
                return False
            link = client.info("replication")
        if link["role"] == "slave" and link["master_link_status"] != "up":
            return False
    return True


def _all_agree(nodes: Sequence[EmbeddedNode]) -> bool:
    """Return whether all nodes agree on the replicas, which they learn about by gossip."""
    views = []
    for node in nodes:
        with node.client() as client:
            views.append({key: row.master_id for key, row in _rows(client, nodes).items()})
    return all(found == views[0] for found in views)


def _rows(client: redis.Redis, nodes: Sequence[EmbeddedNode]) -> dict[str, ClusterNodeRow]:
    by_port = {node.port: node for node in nodes}
    rows: dict[str, ClusterNodeRow] = {}
    for line in _command(client, "NODES").decode().splitlines():
        row_id, address, flag_text, master_id, *rest = line.split()
        node = by_port.get(int(address.split("@")[0].rpartition(":")[2]))
        if node is None:
            continue
        flags = flag_text.split(",")
        rows[row_id] = ClusterNodeRow(
            node=node,
            myself="myself" in flags,
            is_master="master" in flags,
            has_slots=any(not slot.startswith("[") for slot in rest[4:]),
            failed="fail" in flags or "noaddr" in flags,
            handshake="handshake" in flags,
            master_id=master_id,
        )
    return rows


def _info(client: redis.Redis) -> dict[str, str]:
    lines = _command(client, "INFO").decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _command(client: redis.Redis, *args: str | int) -> bytes:
    # Split into arguments, the command bypasses redis-py's parsers and returns the raw reply.
    reply: bytes = client.execute_command("CLUSTER", *args)  # type: ignore[no-untyped-call] # redis-py's own
    return reply
