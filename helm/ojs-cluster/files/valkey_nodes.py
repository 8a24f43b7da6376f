"""Read the nodes of the bundled Valkey Cluster and what they report about each other."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

SLOTS = 16384


class NotYet(Exception):
    """A state is not reached yet; the message tells which."""


@cache
def _client(host: str, port: int) -> Redis:
    password = os.environ.get("OJS_REDIS_PASSWORD") or None
    authority = os.environ.get("OJS_REDIS_TLS_CA") or None
    client = Redis(
        host,
        port,
        password=password,
        socket_timeout=30,
        socket_connect_timeout=5,
        ssl=authority is not None,
        ssl_ca_certs=authority,
        # One retry for a broken connection; callers wait and try again.
        retry=Retry(NoBackoff(), 1),
    )
    client.response_callbacks.clear()  # replies as the server sends them, INFO too
    return client


@dataclass(frozen=True)
class Node:
    """A node, by its DNS name."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def send(self, *command: str | int | bytes) -> Any:
        """Send one command.

        Raises:
            RedisError, OSError: the node does not answer, or refuses.
        """
        return _client(self.host, self.port).execute_command(*command)  # type: ignore[no-untyped-call]

    def ask(self, *command: str | int) -> str:
        """Send one command whose reply is text. Raises as ``send`` does."""
        reply = self.send(*command)
        return reply.decode() if isinstance(reply, bytes) else str(reply)

    def kubernetes_host(self) -> str:
        """Return the host of its pod, or the node's own name if it announces none."""
        setting = self.send("CONFIG", "GET", "cluster-announce-human-nodename")
        values = list(setting.values()) if isinstance(setting, dict) else setting[1::2]
        return values[0].decode() if values and values[0] else str(self)


@dataclass(frozen=True)
class Member:
    """What a node reports about another or itself: a line of CLUSTER NODES."""

    id: str
    address: str
    """`IP:PORT` at which the others reach it."""
    pod: str
    """Name of its pod and Service; empty if it announces none."""
    flags: frozenset[str]
    master: str
    """Id of its master, or `-`."""
    linked: bool
    slots: frozenset[int]
    moving: tuple[tuple[int, str, str], ...]
    """Slots that are moving key by key: slot, `to` or `from`, id of the other node."""

    @property
    def failed(self) -> bool:
        """Return whether it has failed or is suspected to have failed."""
        return not self.flags.isdisjoint({"fail", "fail?", "noaddr", "handshake"})

    @property
    def leads(self) -> bool:
        """Return whether it is a master with slots."""
        return "master" in self.flags and bool(self.slots)

    @property
    def is_empty(self) -> bool:
        """Return whether it has no role: no slots and no master."""
        return "master" in self.flags and not self.slots


def parse(text: str) -> list[Node]:
    """Return the nodes of the command line."""
    addresses = (name.rpartition(":") for name in text.split(","))
    return [Node(host, int(port)) for host, _, port in addresses]


def members(node: Node) -> list[Member]:
    """Return all nodes that a node knows."""
    return [_member(line) for line in node.ask("CLUSTER", "NODES").splitlines()]


def myself(node: Node) -> Member:
    """Return what a node reports about itself."""
    return next(each for each in members(node) if "myself" in each.flags)


def _member(line: str) -> Member:
    id_, where, flags, master, _, _, _, link, *parts = line.split()
    slots: set[int] = set()
    moving = []
    for part in parts:
        if part.startswith("["):  # [SLOT->-ID] or [SLOT-<-ID]
            slot, arrow, other = (
                part.strip("[]").replace("->-", " > ").replace("-<-", " < ").split()
            )
            moving.append((int(slot), "to" if arrow == ">" else "from", other))
        else:
            first, _, last = part.partition("-")
            slots.update(range(int(first), int(last or first) + 1))
    address, _, name = where.partition(",")
    return Member(
        id_,
        address.partition("@")[0],
        name.partition(",")[0],
        frozenset(flags.split(",")),
        master,
        link == "connected",
        frozenset(slots),
        tuple(moving),
    )


def spread(
    candidates: Sequence[Node], count: int, hosts: dict[Node, str], taken: Iterable[Node]
) -> list[Node]:
    """Choose candidates, each on the host with the fewest of them and of those taken.

    Of equal candidates the first is chosen, so that every run chooses the same.
    """
    used: dict[str, int] = {}
    for node in taken:
        used[hosts[node]] = used.get(hosts[node], 0) + 1
    chosen: list[Node] = []
    while len(chosen) < count and len(chosen) < len(candidates):
        left = [node for node in candidates if node not in chosen]
        best = min(left, key=lambda node: used.get(hosts[node], 0))
        used[hosts[best]] = used.get(hosts[best], 0) + 1
        chosen.append(best)
    return chosen


def ranges(slots: Collection[int]) -> list[tuple[int, int]]:
    """Return the first and last slot of each consecutive range."""
    found: list[tuple[int, int]] = []
    for slot in sorted(slots):
        if found and found[-1][1] == slot - 1:
            found[-1] = (found[-1][0], slot)
        else:
            found.append((slot, slot))
    return found
