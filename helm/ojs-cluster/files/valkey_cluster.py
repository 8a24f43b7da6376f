"""Create a Valkey Cluster of the bundled pods. It may run at any time.

    python valkey_cluster.py NODES MASTERS

NODES are comma separated host:port; OJS_REDIS_PASSWORD is their password.

It assigns the slots, moves some of them to new masters (valkey_slots.py), and waits until the
cluster is complete. The sidecar of each node (valkey_meet.sh) introduces the nodes to each other
and makes nodes without slots replicas.

It decides by the state of the cluster, not by its own history, and assigns only slots without an
owner. Two of these jobs at the same time assign the same. As far as there are enough hosts, masters
are on different hosts; the sidecars put replicas on other hosts than their masters. It fails if it
cannot continue safely: slots that lost their master and its replicas have lost their jobs, and only
an operator may decide about that.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence

from redis.exceptions import RedisError
from valkey_nodes import SLOTS, Node, NotYet, members, myself, parse, ranges, spread
from valkey_slots import grow

PATIENCE_S = 300
POLL_S = 0.5


def form(nodes: Sequence[Node], masters: int) -> None:
    """Make the nodes one cluster that serves every slot.

    Raises:
        SystemExit: the cluster is not complete within ``PATIENCE_S``.
    """

    def repeat(step: Callable[[], None], what: str) -> None:
        said = ""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                step()
            except (NotYet, RedisError, OSError) as error:
                trouble = str(error)
            else:
                print(what, flush=True)
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"not reached in {PATIENCE_S} s: {what}: {trouble}")
            if trouble != said:
                print(f"waiting until {what}: {trouble}", flush=True)
                said = trouble
            time.sleep(POLL_S)

    repeat(lambda: await_acquaintance(nodes), "every node knows every node")
    repeat(lambda: hand_out_slots(nodes, masters), "every slot has a master")
    share(nodes, masters, repeat)
    repeat(lambda: await_parts(nodes), "every other node is a replica")
    repeat(lambda: await_service(nodes), "every node serves the cluster")


def await_acquaintance(nodes: Sequence[Node]) -> None:
    """Wait until every node reaches all nodes."""
    for node in nodes:
        reached = sum(each.linked and not each.failed for each in members(node))
        if reached < len(nodes):
            raise NotYet(f"{node.host}:{node.port} reaches {reached} of {len(nodes)}")


def hand_out_slots(nodes: Sequence[Node], masters: int) -> None:
    """Assign slots without an owner to nodes without slots, on different hosts as far as possible.

    The ranges are equal, as the server's shards are. The rest of a range that a node already has in
    part goes to the same node. Return when every node sees every slot with a master that answers.
    """
    # Decide by what all nodes know: a new node has not heard of every owner yet.
    taken = {slot for node in nodes for each in members(node) for slot in each.slots}
    if len(taken) < SLOTS:
        own = {node: myself(node) for node in nodes}
        owners = [node for node in nodes if own[node].leads]
        wanted = []
        for index in range(masters):
            shard = range(index * SLOTS // masters, (index + 1) * SLOTS // masters)
            if free := set(shard) - taken:
                partly = [node for node in owners if own[node].slots & set(shard)]
                wanted.append((partly, free))
        empty = [node for node in nodes if own[node].is_empty]
        hosts = {node: node.kubernetes_host() for node in nodes}
        new = spread(empty, sum(not partly for partly, _ in wanted), hosts, owners)
        for partly, free in wanted:
            if not (partly or new):
                raise NotYet(f"no node is left for {len(free)} slots")
            owner = partly[0] if partly else new.pop(0)
            for first, last in ranges(free):
                owner.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
    await_masters(nodes)


def await_masters(nodes: Sequence[Node]) -> None:
    """Wait until every node sees every slot with a master that answers."""
    tables = [(node, members(node)) for node in nodes]
    # Checked before the node's own gaps: a new node hears nothing of slots whose master is lost.
    if lost := {slot for _, seen in tables for each in seen if each.failed for slot in each.slots}:
        raise NotYet(f"{len(lost)} slots belong to a node that has failed")
    for node, seen in tables:
        if missing := SLOTS - sum(len(each.slots) for each in seen):
            raise NotYet(f"{node.host}:{node.port} knows no master of {missing} slots")


def share(
    nodes: Sequence[Node], masters: int, repeat: Callable[[Callable[[], None], str], None]
) -> None:
    """Make new masters and move slots to them, until all have equal shares."""
    left = 1

    def step() -> None:
        nonlocal left
        left = grow(nodes, masters, len(nodes) // masters - 1)

    while left:
        repeat(step, "a step towards equal shares is done")


def await_parts(nodes: Sequence[Node]) -> None:
    """Wait until every node has slots or is a replica."""
    for node in nodes:
        own = myself(node)
        if "master" in own.flags and not own.slots:
            raise NotYet(f"{node.host}:{node.port} has no part")


def await_service(nodes: Sequence[Node]) -> None:
    """Wait until every node sees every slot served, and every replica follows its master."""
    await_masters(nodes)
    for node in nodes:
        if "cluster_state:ok" not in node.ask("CLUSTER", "INFO"):
            raise NotYet(f"{node.host}:{node.port} does not serve")
        if "master_link_status:down" in node.ask("INFO", "replication"):
            raise NotYet(f"{node.host}:{node.port} does not follow its master")


def main(arguments: Sequence[str]) -> int:
    """Create the cluster."""
    # A container's first process ignores signals without a handler.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    nodes, masters = arguments
    form(parse(nodes), int(masters))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
