"""Read objects of Kubernetes and answers of Valkey; nothing here sends a request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]


def name(thing: Object) -> str:
    """Name of an object."""
    return str(thing["metadata"]["name"])


def is_ready(pod_or_node: Object) -> bool:
    """Whether it has the condition ``Ready``, and is not about to end."""
    if "deletionTimestamp" in pod_or_node["metadata"]:
        return False
    conditions = pod_or_node.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def workers(nodes: Iterable[Object]) -> list[Object]:
    """Nodes that take pods without a toleration."""
    kept = []
    for node in nodes:
        taints = node["spec"].get("taints", [])
        closed = any(each["effect"] in ("NoSchedule", "NoExecute") for each in taints)
        if is_ready(node) and not closed and not node["spec"].get("unschedulable"):
            kept.append(node)
    return kept


def addresses(node: Object) -> list[str]:
    """Addresses of a node that may be reached from outside, the likeliest first."""
    found = {each["type"]: each["address"] for each in node["status"].get("addresses", [])}
    return [found[kind] for kind in ("ExternalIP", "InternalIP") if kind in found]


def node_port(service: Object) -> int | None:
    """Port of a Service on every node, if it has one."""
    port: int | None = service["spec"]["ports"][0].get("nodePort")
    return port


def hosts(pods: Iterable[Object]) -> dict[str, str]:
    """The node of each pod that has one."""
    return {name(pod): pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName")}


@dataclass(frozen=True)
class Member:
    """A node of the Valkey Cluster, as a line of CLUSTER NODES has it."""

    id: str
    address: str
    flags: frozenset[str]
    follows: str
    slots: int

    @property
    def is_master(self) -> bool:
        """Whether it serves slots."""
        return "master" in self.flags and self.slots > 0

    @property
    def failed(self) -> bool:
        """Whether it is taken, or suspected, to be away."""
        return not self.flags.isdisjoint({"fail", "fail?", "noaddr", "handshake"})


def members(text: str) -> list[Member]:
    """Read CLUSTER NODES."""
    found = []
    for line in text.splitlines():
        id_, where, flags, follows, _, _, _, _, *ranges = line.split()
        slots = 0
        for each in ranges:
            if not each.startswith("["):  # one that is being moved
                first, _, last = each.partition("-")
                slots += int(last or first) - int(first) + 1
        address = where.partition("@")[0].rpartition(":")[0]
        found.append(Member(id_, address, frozenset(flags.split(",")), follows, slots))
    return found


def faults(known: Sequence[Member], masters: int, replicas: int) -> list[str]:
    """What keeps a Valkey Cluster from being whole; empty when it is."""
    serving = {each.id for each in known if each.is_master and not each.failed}
    followers = Counter(each.follows for each in known if "slave" in each.flags and not each.failed)
    said = []
    if len(serving) != masters:
        said.append(f"{len(serving)} masters of {masters}")
    if covered := 16384 - sum(each.slots for each in known if each.id in serving):
        said.append(f"{covered} slots without a master")
    said += [
        f"{id_} has {followers[id_]} replicas" for id_ in serving if followers[id_] != replicas
    ]
    return said + [f"{each.id} has failed" for each in known if each.failed]
