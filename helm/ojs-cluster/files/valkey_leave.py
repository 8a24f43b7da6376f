"""Hand masters of the bundled Valkey Cluster over before their pods are removed.

    python valkey_leave.py NODES MASTERS

NODES are comma separated host:port of all remaining pods; OJS_REDIS_PASSWORD is their password.

It runs before an upgrade or a rollback. With fewer replicas, Kubernetes removes the pods with the
highest numbers all at once, and any of them may be a master. It makes a remaining node the master
of every shard. If it cannot, it fails, and nothing is changed. It ignores failed nodes. If no node
answers, there is nothing to hand over.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence

from redis.exceptions import AuthenticationError, RedisError, ResponseError
from valkey_nodes import Member, Node, NotYet, members, parse
from valkey_slots import info, refuse_fewer

PATIENCE_S = 240
POLL_S = 0.5


class Cluster:
    """What the remaining nodes report about themselves and the others.

    Raises:
        NotYet: a node refuses to answer, so it may still be alive.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.remaining: dict[str, Node] = {}
        """Remaining nodes that answer, by id."""
        self.known: dict[str, Member] = {}
        """All nodes that they know and reach; a node's own report has precedence."""
        self.silent: list[Node] = []
        for node in nodes:
            try:
                seen = members(node)
            except (AuthenticationError, ResponseError) as problem:
                raise NotYet(f"{node} refuses: {problem}") from problem
            except (RedisError, OSError):
                self.silent.append(node)
                continue
            for each in seen:
                if "myself" in each.flags:
                    self.remaining[each.id] = node
                    self.known[each.id] = each
                elif not each.failed and each.id not in self.remaining:
                    self.known[each.id] = each
        self._named = {node.host for node in nodes}

    def masters(self) -> list[Member]:
        """Return masters with slots."""
        return [each for each in self.known.values() if each.leads]

    def goes(self, member: Member) -> bool:
        """Return whether the pod of a node is removed.

        Raises:
            NotYet: it may be a remaining node that does not answer.
        """
        if member.id in self.remaining or member.pod in self._named:
            return False
        if not member.pod and self.silent:
            raise NotYet(f"{self.silent[0]} does not answer, and {member.address} may be its node")
        return True

    def followers(self, master: str) -> list[str]:
        """Return the ids of a master's replicas that remain."""
        return [each for each in self.remaining if self.known[each].master == master]


def hand_over(nodes: Sequence[Node], masters: int) -> bool:
    """Take one step; return whether every master remains.

    Raises:
        NotYet: it has to wait.
        SystemExit: there are more masters than wanted.
    """
    cluster = Cluster(nodes)
    if not cluster.remaining:
        return True  # the first install, or an outage that an upgrade may end
    refuse_fewer(len(cluster.masters()), masters)
    going = [each for each in cluster.masters() if cluster.goes(each)]
    for master in going:
        if heirs := cluster.followers(master.id):
            take_over(cluster, master, heirs)
        else:
            lend(cluster, master)
        return False
    return True


def take_over(cluster: Cluster, master: Member, heirs: Sequence[str]) -> None:
    """Make one of these replicas the master."""
    ready = [heir for heir in heirs if "master_link_status:up" in info(cluster.remaining[heir])]
    if not ready:
        raise NotYet(f"{cluster.remaining[heirs[0]]} is not in sync with {master.address}")
    node = cluster.remaining[ready[0]]
    node.ask("CLUSTER", "FAILOVER")
    deadline = time.monotonic() + 10  # the server gives up after five seconds
    while "role:master" not in info(node):
        if time.monotonic() > deadline:
            raise NotYet(f"{node} did not take over from {master.address}")
        time.sleep(0.1)
    print(f"{node} has taken over from {master.pod or master.address}", flush=True)


def lend(cluster: Cluster, master: Member) -> None:
    """Make a remaining node a replica of a master without one.

    The node is a replica of another shard, or of none. It is not the only remaining node of a
    shard.
    """
    shards: dict[str, list[str]] = {}
    for id_ in cluster.remaining:
        own = cluster.known[id_]
        shard = own.id if own.leads else own.master
        shards.setdefault(shard, []).append(id_)
    candidates = [
        id_
        for shard, kept in sorted(shards.items(), key=lambda pair: -len(pair[1]))
        for id_ in kept
        if not cluster.known[id_].leads and (shard == "-" or len(kept) > 1)
    ]
    if not candidates:
        raise NotYet(f"no remaining node can follow {master.address}")
    node = cluster.remaining[candidates[0]]
    node.ask("CLUSTER", "REPLICATE", master.id)
    print(f"{node} follows {master.pod or master.address} now", flush=True)


def leave(nodes: Sequence[Node], masters: int) -> None:
    """Hand over until every master remains.

    Raises:
        SystemExit: it takes longer than ``PATIENCE_S``, or there are more masters than wanted.
    """
    deadline = time.monotonic() + PATIENCE_S
    said = ""
    # Checked twice, so that the other nodes have heard of the change too.
    agreed = 0
    while agreed < 2:
        trouble = attempt(lambda: hand_over(nodes, masters))
        agreed = agreed + 1 if trouble is None else 0
        if trouble and trouble != said:
            print(f"waiting: {trouble}", flush=True)
            said = trouble
        if time.monotonic() > deadline:
            raise SystemExit(
                f"Masters could not be handed over in {PATIENCE_S} s, and nothing was changed:"
                f" {said}. Have every node in sync (`valkey-cli cluster nodes`), then repeat the"
                " upgrade."
            )
        time.sleep(POLL_S)
    print("every master remains", flush=True)


def attempt(step: Callable[[], bool]) -> str | None:
    """Take a step; return None when nothing is left, else what it waits for, or an empty text."""
    try:
        return None if step() else ""
    except (NotYet, RedisError, OSError) as error:
        return str(error)


def main(arguments: Sequence[str]) -> int:
    """Hand masters over."""
    # A container's first process ignores signals without a handler.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    nodes, masters = arguments
    leave(parse(nodes), int(masters))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
