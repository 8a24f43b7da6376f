"""Problems of the Redis masters, of their replicas, and of the schedulers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ojs_cluster.ui.cluster_status import SLOTS
from ojs_cluster.ui.formats import duration, number, size
from ojs_cluster.ui.problems.problem import Problem

_PAGE: Final = ("cluster",)
_LAG_S: Final = 10
"""Time in seconds since the last acknowledgement of a replica from which it is reported."""
_MAX_NAMED: Final = 3

Node = Mapping[str, Any]


def problems_of_cluster(status: Mapping[str, Any], group: str) -> Iterator[Problem]:
    """Yield the problems in the members of a ``nodes.ClusterStatus``.

    Args:
        status: the status.
        group: the scheduler group whose leaders the status names.
    """
    yield from _of_silent_masters(status)
    for master in status["masters"]:
        yield from _of_memory(master)
        yield from _of_replicas(master)
    yield from _of_missing_replicas(status["masters"])
    yield from _of_schedulers(status, group)


def _of_silent_masters(status: Mapping[str, Any]) -> Iterator[Problem]:
    total = status["shards"]
    for master in status["masters"]:
        if not master["answers"]:
            action = (
                "Its jobs are kept, and wait. If it has a replica, the replica takes over after "
                "cluster-node-timeout. Otherwise start the server again, or check its network. "
                f"See: redis-cli --cluster check {master['address']}"
                if status["clustered"]
                else "Start the server again, or check its network and REDIS_URL."
            )
            yield Problem(
                f"The Redis master {master['address']} does not answer: "
                f"{number(master['shards'])} of {number(total)} shards wait",
                action,
                _PAGE,
                True,
            )
    uncovered = SLOTS - status["slots_covered"]
    if status["clustered"] and uncovered:
        yield Problem(
            f"{number(uncovered)} of {number(SLOTS)} slots have no master: jobs of their shards "
            "wait",
            "Start the lost master again, or run redis-cli --cluster fix with the address of "
            "another master.",
            _PAGE,
            True,
        )


def _of_memory(master: Node) -> Iterator[Problem]:
    address, verdict = master["address"], master["memory"]
    if verdict in ("full", "nearly_full"):
        used = f"{size(master['memory_bytes'])} of {size(master['max_memory_bytes'])}"
        remedy = "Raise its maxmemory, add a master, delete jobs, or shorten the retention."
        if verdict == "full":
            yield Problem(
                f"The Redis master {address} is full ({used}): new jobs are refused",
                f"{remedy} Workers can still finish jobs, which frees memory.",
                _PAGE,
                True,
            )
        else:
            yield Problem(
                f"The Redis master {address} is nearly full ({used})",
                f"{remedy} At the limit new jobs are refused.",
                _PAGE,
            )
    if master["policy"] not in ("", "noeviction"):
        yield Problem(
            f"The Redis master {address} may delete jobs when it is full "
            f"(maxmemory-policy {master['policy']})",
            "Run CONFIG SET maxmemory-policy noeviction on it, and write it into its "
            "configuration.",
            _PAGE,
            True,
        )


def _of_replicas(master: Node) -> Iterator[Problem]:
    for replica in master["replicas"]:
        where = f"The replica {replica['address']} of {master['address']}"
        if not replica["online"]:
            yield Problem(
                f"{where} still copies the data, and cannot take over",
                "Wait until it is online. If that takes long, read the log of the replica.",
                _PAGE,
            )
        elif (replica["lag_s"] or 0) >= _LAG_S:
            yield Problem(
                f"{where} has acknowledged nothing for {duration(replica['lag_s'] * 1000)}",
                "Check the replica and its network. After a failover now, jobs would be lost.",
                _PAGE,
            )


def _of_missing_replicas(masters: Sequence[Node]) -> Iterator[Problem]:
    """Report masters without a replica if others have one, as after a failover."""
    answering = [master for master in masters if master["answers"] and master["slots"]]
    without = [master["address"] for master in answering if not master["replicas"]]
    if without and len(without) < len(answering):
        shown = ", ".join(without[:_MAX_NAMED]) + (" …" if len(without) > _MAX_NAMED else "")
        yield Problem(
            f"{'A Redis master has' if len(without) == 1 else 'Redis masters have'} no replica: "
            f"{shown}",
            "After a failover, start the old master again: it becomes the replica. Without one, "
            "the next loss stops the shards.",
            _PAGE,
        )


def _of_schedulers(status: Mapping[str, Any], group: str) -> Iterator[Problem]:
    without = status["without_leader"]
    led = sum(each["shards"] + each["leads_meta"] for each in status["schedulers"])
    if without and not led:
        yield Problem(
            "No scheduler is running: retries, schedules, expired leases and cron jobs wait",
            "Start one (ojs-cluster scheduler), or read the log of the stopped one. This page "
            f"looks for schedulers of the group {group} (OJS_SCHEDULER_GROUP).",
            _PAGE,
            True,
        )
    elif without:
        tags = "1 shard has" if without == 1 else f"{number(without)} shards have"
        yield Problem(
            f"{tags} no scheduler leader",
            "Another scheduler takes over within OJS_SCHEDULER_LEASE. If this stays, read the logs "
            "of the schedulers.",
            _PAGE,
        )
