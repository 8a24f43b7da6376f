"""Makes a Valkey Cluster of the bundled pods, and keeps it one. Safe to run at any time.

    python valkey_cluster.py meet NODES             introduce the nodes to each other, for ever
    python valkey_cluster.py form NODES MASTERS     hand out slots and replicas, once

NODES are comma separated host:port, or host:port@bus; OJS_REDIS_PASSWORD is theirs.

A pod's address changes when it is started again. One that returns tells its new address to those
whose address it remembers; when all return at once nobody remembers anything that holds, and only
somebody who can ask DNS can introduce them. That is `meet`, which runs beside each node. To
introduce nodes that know each other changes nothing.

`form` decides by what the cluster says, not by what it has done before: slots that have a master
keep it, nodes that have a part keep it, and only what is missing is handed out. Two of it at the
same time hand out the same. What it cannot do safely it leaves alone, and fails.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

SLOTS = 16384
PATIENCE_S = 300
MEET_EVERY_S = 5
POLL_S = 0.5


@dataclass(frozen=True)
class Node:
    """One node, by the name that DNS knows."""

    host: str
    port: int
    bus: int

    def ask(self, *command: str | int) -> str:
        """Send one command on a connection of its own.

        Raises:
            RedisError, OSError: the node does not answer, or refuses.
        """
        password = os.environ.get("OJS_REDIS_PASSWORD") or None
        with Redis(self.host, self.port, password=password, socket_timeout=5) as client:
            # In pieces ("CLUSTER", "NODES") a command escapes redis-py's parsers.
            reply: Any = client.execute_command(*command)  # type: ignore[no-untyped-call]
        return reply.decode() if isinstance(reply, bytes) else str(reply)

    def address(self) -> str:
        """Where it is now: CLUSTER MEET takes no names."""
        return str(socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0][4][0])


@dataclass(frozen=True)
class Member:
    """What a node says of another, or of itself: a line of CLUSTER NODES."""

    endpoint: str
    flags: frozenset[str]
    master: str
    linked: bool
    slots: tuple[range, ...]


def parse(text: str) -> list[Node]:
    """Nodes of the command line."""
    nodes = []
    for name in text.split(","):
        address, _, bus = name.partition("@")
        host, _, port = address.rpartition(":")
        nodes.append(Node(host, int(port), int(bus or int(port) + 10_000)))
    return nodes


def members(node: Node) -> dict[str, Member]:
    """Everybody whom a node knows, by id."""
    found = {}
    for line in node.ask("CLUSTER", "NODES").splitlines():
        id_, endpoint, flags, master, _, _, _, link, *parts = line.split()
        slots = []
        for part in parts:
            if not part.startswith("["):  # one that is being moved
                first, _, last = part.partition("-")
                slots.append(range(int(first), int(last or first) + 1))
        found[id_] = Member(
            endpoint.partition("@")[0],
            frozenset(flags.split(",")),
            master,
            link == "connected",
            tuple(slots),
        )
    return found


def meet(nodes: Sequence[Node]) -> None:
    """Introduce to each node everybody whom it does not reach.

    A node that does not answer, or whose name is not known yet, is left for the next time.
    """
    addresses = {}
    for node in nodes:
        with contextlib.suppress(OSError):
            addresses[node] = node.address()
    for node in nodes:
        with contextlib.suppress(RedisError, OSError):
            linked = {each.endpoint for each in members(node).values() if each.linked}
            for other, address in addresses.items():
                if other is not node and f"{address}:{other.port}" not in linked:
                    node.ask("CLUSTER", "MEET", address, other.port, other.bus)


def form(nodes: Sequence[Node], masters: int) -> None:
    """Make the nodes one cluster that serves every slot.

    Raises:
        SystemExit: it is not one within `PATIENCE_S`.
    """
    deadline = time.monotonic() + PATIENCE_S

    def repeat(step: Callable[[], bool], what: str) -> None:
        said = ""
        while True:
            trouble = "not yet"
            try:
                if step():
                    print(what, flush=True)
                    return
            except (RedisError, OSError) as error:
                trouble = str(error)
            if time.monotonic() > deadline:
                raise SystemExit(f"not reached in {PATIENCE_S} s: {what}: {trouble}")
            if trouble != said:
                print(f"waiting until {what}: {trouble}", flush=True)
                said = trouble
            time.sleep(POLL_S)

    def acquainted() -> bool:
        meet(nodes)
        return all(
            sum(each.linked and "handshake" not in each.flags for each in members(node).values())
            >= len(nodes)
            for node in nodes
        )

    repeat(acquainted, "every node knows every node")
    repeat(lambda: hand_out_slots(nodes[:masters]), "every slot has a master")
    repeat(lambda: attach_replicas(nodes), "every other node is a replica")
    repeat(lambda: all(serves(node) for node in nodes), "every node serves the cluster")


def hand_out_slots(masters: Sequence[Node]) -> bool:
    """Give each master its range, if nobody has any of it and it has none.

    The ranges are equal, as the server's shards are. Tells whether every slot is given.
    """
    for index, node in enumerate(masters):
        seen = members(node)
        taken = {slot for each in seen.values() for slots in each.slots for slot in slots}
        _, own = myself(seen)
        first, end = index * SLOTS // len(masters), (index + 1) * SLOTS // len(masters)
        if "master" in own.flags and not own.slots and taken.isdisjoint(range(first, end)):
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
    seen = members(masters[0])
    return sum(len(slots) for each in seen.values() for slots in each.slots) == SLOTS


def attach_replicas(nodes: Sequence[Node]) -> bool:
    """Give a node without a part to the master with the fewest replicas.

    One at a time, and by what each node says of itself: what they hear of each other comes late,
    and two of them would take the same master. Tells whether none was left.
    """
    own = [(node, *myself(members(node))) for node in nodes]
    replicas = Counter(member.master for _, _, member in own if "slave" in member.flags)
    leading = [id_ for _, id_, member in own if member.slots]
    for node, _, member in own:
        if "master" in member.flags and not member.slots:
            node.ask("CLUSTER", "REPLICATE", min(leading, key=lambda id_: (replicas[id_], id_)))
            return False
    return True


def myself(seen: dict[str, Member]) -> tuple[str, Member]:
    """The node that was asked, and its id."""
    return next((id_, each) for id_, each in seen.items() if "myself" in each.flags)


def serves(node: Node) -> bool:
    """Tell whether a node sees every slot served and, a replica, follows its master."""
    link = node.ask("INFO", "replication")
    return (
        "cluster_state:ok" in node.ask("CLUSTER", "INFO") and "master_link_status:down" not in link
    )


def main(arguments: Sequence[str]) -> int:
    """Run one command."""
    command, nodes = arguments[0], parse(arguments[1])
    if command == "form":
        form(nodes, int(arguments[2]))
        return 0
    while True:
        meet(nodes)
        time.sleep(MEET_EVERY_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
