"""Move slots of the bundled Valkey Cluster to new masters, while clients use them.

It plans by the current owners of the slots and keeps no state, so a later run completes an
interrupted one. A server with CLUSTER MIGRATESLOTS moves slots atomically and continues without
this script. Other servers move the keys of a slot in batches: both masters know that the slot is
moving, and clients are redirected for keys that have moved (ASK).

All keys of a shard of the server lie in one slot. While such a slot moves, its scripts get
TRYAGAIN, and the server repeats them. A master serves no other client during one MIGRATE, so the
size of batches follows the time that they take.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError
from valkey_nodes import SLOTS, Member, Node, NotYet, myself, ranges, spread

CHUNK = 512
"""Slots that move atomically at once. An interrupted move is lost work, and a move takes memory of
the source.
"""
BLOCK_S = 0.01
"""How long a batch of keys may block a master, in seconds, unless one key alone takes longer."""
MOST_KEYS = 512


@dataclass(frozen=True)
class Move:
    """Slots that move from one master to another."""

    source: Node
    target: Node
    slots: tuple[int, ...]


class Cluster:
    """What every node reports about itself at one time."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.members: dict[Node, Member] = {node: myself(node) for node in nodes}
        self.by_id = {member.id: node for node, member in self.members.items()}

    def masters(self) -> list[Node]:
        """Return nodes with slots."""
        return [node for node, member in self.members.items() if member.leads]

    def owner(self, slot: int) -> Node | None:
        """Return the node that owns the slot by its own report."""
        return next((n for n, member in self.members.items() if slot in member.slots), None)

    def receivers(self, count: int) -> list[Node]:
        """Return empty nodes that become masters, sorted by host.

        Nodes that receive slots already come first.

        Raises:
            NotYet: there are not enough of them.
        """
        empty = [node for node, member in self.members.items() if member.is_empty]
        begun = [node for node in empty if self.members[node].moving]
        hosts = {node: node.kubernetes_host() for node in self.members}
        rest = [node for node in empty if node not in begun]
        found = begun[:count]
        found += spread(rest, count - len(found), hosts, [*self.masters(), *found])
        if len(found) < count:
            raise NotYet(f"{len(found)} of {count} empty nodes are there to become masters")
        return found


def plan(cluster: Cluster, masters: int) -> list[Move]:
    """Return the moves until this many masters have equal shares.

    Raises:
        SystemExit: there are more masters than wanted.
        NotYet: there are not enough nodes.
    """
    owners = cluster.masters()
    refuse_fewer(len(owners), masters)
    all_of_them = owners + cluster.receivers(masters - len(owners))
    has = {node: sorted(cluster.members[node].slots) for node in all_of_them}
    # The master that has more slots now keeps the odd one.
    by_size = sorted(all_of_them, key=lambda node: -len(has[node]))
    wants = {
        node: SLOTS // masters + (index < SLOTS % masters) for index, node in enumerate(by_size)
    }
    moves = []
    for target in all_of_them:
        for source in all_of_them:
            count = min(wants[target] - len(has[target]), len(has[source]) - wants[source])
            if count > 0:
                moves.append(Move(source, target, tuple(has[source][-count:])))
                has[target] = sorted(has[target] + has[source][-count:])
                del has[source][-count:]
    return moves


def refuse_fewer(there: int, masters: int) -> None:
    """Raise SystemExit when there are more masters than wanted."""
    if there > masters:
        raise SystemExit(
            f"The cluster has {there} masters and valkey.masters is {masters}: masters cannot be"
            f" taken out. Set valkey.masters to {there}, or move the jobs to a smaller installation"
            " with `ojs-cluster export` and `import`."
        )


def grow(nodes: Sequence[Node], masters: int, replicas: int) -> int:
    """Take the next step towards equal shares of this many masters; return the slots that are left.

    A new master first gets one slot without keys. It gets more when its replicas are in sync,
    because a failure before would lose its jobs.

    Raises:
        NotYet: another step has to happen first.
        SystemExit: there are more masters than wanted.
    """
    complete_open_slots(nodes)
    cluster = Cluster(nodes)
    await_atomic_moves(cluster)
    moves = plan(cluster, masters)
    if not moves:
        return 0
    new = [each for each in moves if not cluster.members[each.target].leads]
    if new:
        first = new[0]
        slot = min(first.slots, key=lambda slot: keys_in(first.source, slot))
        carry_out(cluster, Move(first.source, first.target, (slot,)))
        print(f"{first.target} is a master now", flush=True)
    else:
        move = moves[0]
        await_replicas(cluster, move.target, replicas)
        carry_out(cluster, Move(move.source, move.target, move.slots[-CHUNK:]))
    left = sum(len(each.slots) for each in plan(Cluster(nodes), masters))
    print(f"{left} slots are left to move", flush=True)
    return left


def await_replicas(cluster: Cluster, master: Node, count: int) -> None:
    """Wait until the master has this many replicas in sync."""
    id_ = cluster.members[master].id
    followers = [node for node, member in cluster.members.items() if member.master == id_]
    ready = [node for node in followers if "master_link_status:up" in info(node)]
    if len(ready) < count:
        raise NotYet(f"{master} has {len(ready)} of {count} replicas in sync")


def info(node: Node) -> str:
    """Return INFO replication as text."""
    return node.ask("INFO", "replication")


def keys_in(node: Node, slot: int) -> int:
    """Return the number of keys that a node has in a slot."""
    return int(node.send("CLUSTER", "COUNTKEYSINSLOT", slot))


def carry_out(cluster: Cluster, move: Move) -> None:
    """Move slots, in the best way that the server supports."""
    if is_atomic(move.source) and is_atomic(move.target):
        move_whole(cluster, move)
    else:
        SlotMover(cluster, move.source, move.target).move(move.slots)


# -- atomic moves ---------------------------------------------------------------------------------


def is_atomic(node: Node) -> bool:
    """Return whether the server moves slots atomically (Valkey 9)."""
    return b"MIGRATESLOTS" in b" ".join(node.send("CLUSTER", "HELP"))


def move_whole(cluster: Cluster, move: Move) -> None:
    """Let the source move the slots, and wait until it has.

    Raises:
        NotYet: the move failed, because a master restarted or lost its role.
    """
    command: list[str | int] = ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE"]
    for first, last in ranges(move.slots):
        command += [first, last]
    move.source.send(*command, "NODE", cluster.members[move.target].id)
    while state := unfinished(move.source):
        print(f"{move.source} to {move.target}: {len(move.slots)} slots, {state}", flush=True)
        time.sleep(0.5)
    if not set(move.slots) <= myself(move.target).slots:
        raise NotYet(f"{move.source} gave up moving slots to {move.target}: {latest(move.source)}")


def migrations(node: Node) -> list[dict[str, str]]:
    """Return the atomic moves that a node reports, the latest first."""
    found = []
    for entry in node.send("CLUSTER", "GETSLOTMIGRATIONS"):
        pairs = (
            entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))
        )
        found.append({text(key): text(value) for key, value in pairs.items()})
    return found


def text(value: Any) -> str:
    """Return a field of a reply as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def latest(node: Node) -> str:
    """Return how the latest move ended."""
    return next((each.get("message") or each["state"] for each in migrations(node)), "")


def unfinished(node: Node) -> str:
    """Return the state of a running move of this node, or an empty text."""
    over = ("success", "failed", "cancelled")
    return next((each["state"] for each in migrations(node) if each["state"] not in over), "")


def await_atomic_moves(cluster: Cluster) -> None:
    """Wait until no atomic move runs; an interrupted run may have started one."""
    for node in cluster.masters():
        if is_atomic(node) and (state := unfinished(node)):
            raise NotYet(f"{node} is still moving slots: {state}")


# -- key by key ----------------------------------------------------------------------------------


def complete_open_slots(nodes: Sequence[Node]) -> None:
    """Complete moves of slots of an interrupted run."""
    cluster = Cluster(nodes)
    leads = [node for node in nodes if "master" in cluster.members[node].flags]
    for slot in sorted({each[0] for node in leads for each in cluster.members[node].moving}):
        owner = cluster.owner(slot)
        if owner is None:
            raise NotYet(f"slot {slot} is on its way, and its master is away")
        target = target_of(cluster, leads, owner, slot)
        if target is None:
            # The target is lost, or was about to start.
            print(f"slot {slot} stays at {owner}", flush=True)
            for node in leads:
                node.ask("CLUSTER", "SETSLOT", slot, "STABLE")
        else:
            print(f"slot {slot} was on its way from {owner} to {target}", flush=True)
            SlotMover(cluster, owner, target).move_one(slot)


def target_of(cluster: Cluster, leads: Sequence[Node], owner: Node, slot: int) -> Node | None:
    """Return the master to which a slot moves: it imports the slot, has keys of it, or is named."""
    others = [node for node in leads if node != owner]
    importing = [
        node
        for node in others
        if any(each[:2] == (slot, "from") for each in cluster.members[node].moving)
    ]
    named = [
        cluster.by_id.get(other)
        for number, direction, other in cluster.members[owner].moving
        if (number, direction) == (slot, "to")
    ]
    # A failover may have lost the state of the slot, but not its keys.
    holding = [node for node in others if keys_in(node, slot)]
    found = holding + importing + [node for node in named if node in others]
    return found[0] if found else None


class SlotMover:
    """Moves slots from one master to another, key by key."""

    def __init__(self, cluster: Cluster, source: Node, target: Node) -> None:
        self._cluster = cluster
        self._source = source
        self._target = target
        self._batch = 16
        self.longest_s = 0.0
        """The longest time in seconds for which a batch blocked the source."""

    def move(self, slots: Sequence[int]) -> None:
        """Move slots; each move is complete before the next begins."""
        said = time.monotonic()
        for done, slot in enumerate(slots):
            self.move_one(slot)
            if time.monotonic() > said + 5:
                said = time.monotonic()
                longest = f"longest pause of a master {self.longest_s * 1000:.0f} ms"
                print(f"{done + 1} of {len(slots)} slots, {longest}", flush=True)

    def move_one(self, slot: int) -> None:
        """Move one slot with its keys. It may be repeated after any interruption."""
        source, target = (self._cluster.members[node].id for node in (self._source, self._target))
        # Until the source lets clients create keys at the target, every key at the target is a
        # copy.
        begun = (slot, "to", target) in myself(self._source).moving
        copies = begun or keys_in(self._target, slot) == 0
        self._target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source)
        self._source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target)
        # The source creates no new keys of this slot now. So once it is empty, it stays empty.
        empty = True
        while keys := self._source.send("CLUSTER", "GETKEYSINSLOT", slot, self._batch):
            self._migrate(slot, keys, replace=copies)
            empty = False
        # The target first: its new epoch makes it the owner for nodes that hear of it late. The
        # other nodes hear of it by gossip, soon enough for a slot without keys.
        ends = (self._target, self._source)
        rest = [n for n in self._cluster.masters() if n not in ends and not empty]
        for node in (*ends, *rest):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target)

    def _migrate(self, slot: int, keys: Sequence[bytes], *, replace: bool) -> None:
        host, _, port = self._cluster.members[self._target].address.rpartition(":")
        password = os.environ.get("OJS_REDIS_PASSWORD")
        command: list[str | int | bytes] = ["MIGRATE", host, port, "", 0, 60_000]
        # A move that timed out may have left a copy at the target.
        command += ["REPLACE"] if replace else []
        command += ["AUTH", password] if password else []
        began = time.monotonic()
        try:
            self._source.send(*command, "KEYS", *keys)
        except ResponseError as problem:
            if "BUSYKEY" not in str(problem):
                raise
            raise SystemExit(
                f"Slot {slot}: a key is at {self._source} and at {self._target}, because a failover"
                f" interrupted the move. Compare them with `cluster getkeysinslot {slot} 100`,"
                " delete the wrong one, and run this job again."
            ) from problem
        took = time.monotonic() - began
        self.longest_s = max(self.longest_s, took)
        if took > BLOCK_S:
            self._batch = max(1, self._batch // 2)
        elif took < BLOCK_S / 2:
            self._batch = min(MOST_KEYS, self._batch * 2)
