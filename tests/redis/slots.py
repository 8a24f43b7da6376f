"""Moving slots between masters with redis-py, the way cluster tools do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis

from ojs_cluster.server.embedded.servers import Embedded, EmbeddedNode
from tests.support.servers import wait_until


def cluster_command(client: redis.Redis, *args: Any) -> Any:
    """Send a CLUSTER command."""
    return client.execute_command("CLUSTER", *args)  # type: ignore[no-untyped-call]


def node_id(node: EmbeddedNode) -> str:
    """The node's 40 character id."""
    with node.client() as client:
        return str(cluster_command(client, "MYID").decode())


class Mover:
    """Moves slots of one cluster, key by key."""

    def __init__(self, embedded: Embedded) -> None:
        self.masters = embedded.nodes[: embedded.master_count]
        self.ids = {node.index: node_id(node) for node in self.masters}

    def begin(self, slot: int, source: EmbeddedNode, target: EmbeddedNode) -> None:
        """Mark the slot: from now on both nodes redirect for keys they do not hold."""
        with target.client() as client:
            cluster_command(client, "SETSLOT", slot, "IMPORTING", self.ids[source.index])
        with source.client() as client:
            cluster_command(client, "SETSLOT", slot, "MIGRATING", self.ids[target.index])

    def move_keys(
        self,
        slot: int,
        source: EmbeddedNode,
        target: EmbeddedNode,
        *,
        limit: int = 10**9,
        pause: Callable[[], None] = lambda: None,
    ) -> int:
        """Move up to ``limit`` keys of the slot, each with a pause after it; return how many."""
        moved = 0
        with source.client() as client:
            while moved < limit:
                keys = cluster_command(client, "GETKEYSINSLOT", slot, 1)
                if not keys:
                    break
                client.migrate("127.0.0.1", target.port, keys, 0, 5000)
                moved += 1
                pause()
        return moved

    def move_key(self, key: bytes, source: EmbeddedNode, target: EmbeddedNode) -> None:
        """Move one key."""
        with source.client() as client:
            client.migrate("127.0.0.1", target.port, [key], 0, 5000)

    def finish(self, slot: int, target: EmbeddedNode) -> None:
        """Give the slot to the target; every master hears of it, the target first."""
        others = [node for node in self.masters if node is not target]
        for node in [target, *others]:
            with node.client() as client:
                cluster_command(client, "SETSLOT", slot, "NODE", self.ids[target.index])

    def move(
        self,
        slot: int,
        source: EmbeddedNode,
        target: EmbeddedNode,
        *,
        pause: Callable[[], None] = lambda: None,
    ) -> int:
        """The whole move; returns the number of keys that went over."""
        self.begin(slot, source, target)
        moved = self.move_keys(slot, source, target, pause=pause)
        # A caller may have made a key on the source between the last look and now: not any more,
        # a migrating node makes none. So empty stays empty.
        self.finish(slot, target)
        return moved

    def can_move_atomically(self) -> bool:
        """Whether the server knows CLUSTER MIGRATESLOTS (Valkey 9)."""
        with self.masters[0].client() as client:
            return b"MIGRATESLOTS" in b" ".join(
                part for part in cluster_command(client, "HELP") if isinstance(part, bytes)
            )

    def move_atomically(self, slots: list[int], source: EmbeddedNode, target: EmbeddedNode) -> None:
        """Move slots as a whole and wait until the target owns them."""
        ranges = [part for slot in slots for part in (slot, slot)]
        move = ("MIGRATESLOTS", "SLOTSRANGE", *ranges, "NODE", self.ids[target.index])
        with source.client() as client, target.client() as receiver:
            cluster_command(client, *move)

            def arrived() -> bool:
                rows = cluster_command(receiver, "SLOTS")
                mine = [(row[0], row[1]) for row in rows if row[2][1] == target.port]
                if all(any(a <= slot <= b for a, b in mine) for slot in slots):
                    return True
                if _last_migration(client) in (b"failed", b"cancelled"):
                    cluster_command(client, *move)  # the server gives up, and does not try again
                return False

            wait_until(arrived, timeout_s=120, what="the slots arrived")


def _last_migration(client: redis.Redis) -> bytes:
    """How the latest move of slots as a whole goes."""
    latest = cluster_command(client, "GETSLOTMIGRATIONS")[0]
    fields = (
        latest if isinstance(latest, dict) else dict(zip(latest[::2], latest[1::2], strict=True))
    )
    return bytes(fields[b"state"])
