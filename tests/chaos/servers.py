"""Commands to the Redis nodes, beside the tunnels."""

from __future__ import annotations

import contextlib

import redis

from ojs_cluster.keys import Keyspace
from ojs_cluster.server.embedded.servers import EmbeddedNode
from tests.redis.slots import cluster_command


def command(node: EmbeddedNode, *words: str | int) -> None:
    """Send a command that may get no response: its node may be stopped or out of memory."""
    with contextlib.suppress(redis.RedisError), node.client() as client:
        client.execute_command(*words)  # type: ignore[no-untyped-call]


def limit_memory(node: EmbeddedNode, size: int) -> None:
    """Set the memory in bytes above which the node refuses writes; 0 for no limit."""
    command(node, "CONFIG", "SET", "maxmemory", size)


def id_of(node: EmbeddedNode) -> str:
    """Return the id of a node in its cluster."""
    with node.client() as client:
        return str(cluster_command(client, "MYID").decode())


def shard_slots() -> list[int]:
    """Return the slots of all shards."""
    return [shard.slot for shard in Keyspace(64)]


def owns(node: EmbeddedNode, slot: int) -> bool:
    """Return whether a node serves a slot."""
    with node.client() as client:
        rows = cluster_command(client, "SLOTS")
    return any(row[0] <= slot <= row[1] and row[2][1] == node.port for row in rows)


def is_well(node: EmbeddedNode) -> bool:
    """Return whether a node serves its slots, and its replica, or its master, is in sync."""
    with node.client() as client:
        if b"cluster_state:ok" not in cluster_command(client, "INFO"):
            return False
        link = client.info("replication")
    if link["role"] == "slave":
        return bool(link["master_link_status"] == "up" and not link["master_sync_in_progress"])
    return bool(link["connected_slaves"])
