"""Form a cluster of the nodes of an embedded installation, and read which node has which role.

Every step of ``form`` checks the current state first. So if a start is interrupted, the next start
completes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis

from ojs_cluster.server.embedded.node import HOST, EmbeddedError, EmbeddedNode

SLOTS = 16_384

WaitUntil = Callable[[Callable[[], bool], str], None]
"""A function that waits until a condition holds. The text describes the condition. After a timeout
the function raises EmbeddedError with this text."""


@dataclass(frozen=True, slots=True)
class ClusterNodeRow:
    """One line of CLUSTER NODES.

    Attributes:
        node: the node that the line describes.
        myself: whether the node is the one that answered CLUSTER NODES.
        is_master: whether the node is a master.
        has_slots: whether the node serves slots.
        failed: whether the cluster has marked the node as failed, or does not know its address.
        handshake: whether the node has not joined the cluster completely.
        master_id: node id of the master that the node replicates; ``-`` for a master.
    """

    node: EmbeddedNode
    myself: bool
    is_master: bool
    has_slots: bool
    failed: bool
    handshake: bool
    master_id: str


def form(nodes: Sequence[EmbeddedNode], master_count: int, wait_until: WaitUntil) -> None:
    """Assign slots to new masters, join all nodes with CLUSTER MEET, and attach new replicas.

    Args:
        nodes: all nodes, masters before replicas.
        master_count: number of masters.
        wait_until: waits for conditions.

    Raises:
        EmbeddedError: the cluster did not form in time.
    """
    for node in nodes[:master_count]:
        with node.client() as client:
            if _is_fresh(client):
                first = node.index * SLOTS // master_count
                last = (node.index + 1) * SLOTS // master_count - 1
                _command(client, "ADDSLOTSRANGE", first, last)
                # Masters with equal configuration epochs would have to resolve the conflict first.
                _command(client, "SET-CONFIG-EPOCH", node.index + 1)
    for node in nodes:
        with node.client() as client:
            for other in nodes:
                if other is not node:
                    _command(client, "MEET", HOST, other.port, other.bus_port)
    wait_until(lambda: _all_known(nodes), "every node knows every node")
    for node in nodes[master_count:]:
        _attach_replica(node, nodes[(node.index - master_count) % master_count], nodes)
    wait_until(lambda: _all_ok(nodes), "every slot is served and every replica is in sync")
    wait_until(lambda: _all_agree(nodes), "every node knows the master of each replica")


def cluster_nodes(nodes: Sequence[EmbeddedNode]) -> dict[str, ClusterNodeRow]:
    """Return the lines of CLUSTER NODES by node id, as the first running node reports them.

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


def _attach_replica(
    node: EmbeddedNode, master: EmbeddedNode, nodes: Sequence[EmbeddedNode]
) -> None:
    """Make a new node a replica of ``master``.

    A node that is a replica already, or that became a master with slots in a failover, is left
    unchanged.
    """
    with node.client() as client:
        (own_row,) = (row for row in _rows(client, nodes).values() if row.myself)
        if own_row.is_master and not own_row.has_slots:
            with master.client() as master_client:
                master_id = _command(master_client, "MYID").decode()
            _command(client, "REPLICATE", master_id)


def _all_known(nodes: Sequence[EmbeddedNode]) -> bool:
    """Return whether every node has joined with every other node at its current address."""
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
            replication = client.info("replication")
        if replication["role"] == "slave" and replication["master_link_status"] != "up":
            return False
    return True


def _all_agree(nodes: Sequence[EmbeddedNode]) -> bool:
    """Return whether all nodes agree on the master of each replica, which gossip spreads."""
    views = []
    for node in nodes:
        with node.client() as client:
            views.append({node_id: row.master_id for node_id, row in _rows(client, nodes).items()})
    return all(view == views[0] for view in views)


def _rows(client: redis.Redis, nodes: Sequence[EmbeddedNode]) -> dict[str, ClusterNodeRow]:
    """Return the lines of CLUSTER NODES by node id, without nodes that are not in ``nodes``."""
    by_port = {node.port: node for node in nodes}
    rows: dict[str, ClusterNodeRow] = {}
    for line in _command(client, "NODES").decode().splitlines():
        # The columns behind the master are: ping sent, pong received, epoch, link state, slots.
        node_id, address, flag_text, master_id, *rest = line.split()
        node = by_port.get(int(address.split("@")[0].rpartition(":")[2]))
        if node is None:
            continue
        flags = flag_text.split(",")
        rows[node_id] = ClusterNodeRow(
            node=node,
            myself="myself" in flags,
            is_master="master" in flags,
            # A slot in brackets is being migrated or imported.
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
    # With the subcommand as an argument of its own, redis-py returns the raw reply. With
    # "CLUSTER NODES" as the command it would parse the reply.
    reply: bytes = client.execute_command("CLUSTER", *args)  # type: ignore[no-untyped-call] # redis-py's own
    return reply
