"""Problems of the Redis masters, of their replicas, and of the schedulers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ojs_cluster.http.problems import Problem
from ojs_cluster.ui.cluster_status import SLOTS
from ojs_cluster.ui.formats import duration, number, size
from ojs_cluster.ui.json_view import readable
from ojs_cluster.ui.languages.translate import _, ngettext

_PAGE: Final = ("cluster",)
_LAG_S: Final = 10
"""Time in seconds since the last acknowledgement of a replica from which it is reported."""
_MAX_NAMED: Final = 3
_WRONG_MS: Final = 2000
"""Difference between two clocks in ms from which it is reported."""
_TOO_WRONG_MS: Final = 20_000
"""Difference between the clocks of two masters in ms from which jobs may be refused."""

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
    yield from _of_hosts(status["masters"])
    yield from _of_schedulers(status, group)
    yield from _of_clocks(status)
    yield from _of_suspect_schemas(status["processes"] or {})


def _of_silent_masters(status: Mapping[str, Any]) -> Iterator[Problem]:
    total = status["shards"]
    for master in status["masters"]:
        if not master["answers"]:
            address = master["address"]
            action = (
                _(
                    "Its jobs are kept, and wait. If it has a replica, the replica takes over "
                    "after cluster-node-timeout. Otherwise start the server again, or check its "
                    "network. See: redis-cli --cluster check %(address)s",
                    address=address,
                )
                if status["clustered"]
                else _("Start the server again, or check its network and REDIS_URL.")
            )
            what = ngettext(
                "The Redis master %(address)s does not answer: %(shards)s of %(total)s shard wait",
                "The Redis master %(address)s does not answer: %(shards)s of %(total)s shards wait",
                total,
                address=address,
                shards=number(master["shards"]),
                total=number(total),
            )
            yield Problem("master_silent", what, action, _PAGE, True, subject=address)
    uncovered = SLOTS - status["slots_covered"]
    if status["clustered"] and uncovered:
        yield Problem(
            "slots_uncovered",
            _(
                "%(number)s of %(total)s slots have no master: jobs of their shards wait",
                number=number(uncovered),
                total=number(SLOTS),
            ),
            _(
                "Start the lost master again, or run redis-cli --cluster fix with the address of "
                "another master."
            ),
            _PAGE,
            True,
        )


def problems_of_losses(status: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the problems of masters that have lost their data.

    They are not among those of ``problems_of_cluster``, because they explain no other problem.
    """
    total = status["shards"]
    for loss in status["losses"]:
        address = loss["address"]
        given = {"address": address, "shards": number(loss["shards"]), "total": number(total)}
        what = (
            ngettext(
                "The Redis master %(address)s has lost its data: jobs and settings of "
                "queues in %(shards)s of %(total)s shard, the cron jobs, the webhooks "
                "and all settings of the cluster",
                "The Redis master %(address)s has lost its data: jobs and settings of "
                "queues in %(shards)s of %(total)s shards, the cron jobs, the webhooks "
                "and all settings of the cluster",
                total,
                **given,
            )
            if loss["of_meta"]
            else ngettext(
                "The Redis master %(address)s has lost its data: jobs and settings of "
                "queues in %(shards)s of %(total)s shard",
                "The Redis master %(address)s has lost its data: jobs and settings of "
                "queues in %(shards)s of %(total)s shards",
                total,
                **given,
            )
        )
        yield Problem(
            "data_lost",
            what,
            _(
                "Import the last export, and enqueue again what it lacks. Give the master a "
                "replica or an AOF, then acknowledge the loss, which ends this problem."
            ),
            _PAGE,
            True,
            # The time tells this loss from the next one of the same master.
            subject=f"{address}@{loss['at_ms']}" if loss["at_ms"] else address,
            since_ms=loss["at_ms"],
        )


def _of_memory(master: Node) -> Iterator[Problem]:
    address, verdict = master["address"], master["memory"]
    if verdict in ("full", "nearly_full"):
        used, limit = size(master["memory_bytes"]), size(master["max_memory_bytes"])
        if verdict == "full":
            yield Problem(
                "master_full",
                _(
                    "The Redis master %(address)s is full (%(used)s of %(limit)s): new jobs are "
                    "refused",
                    address=address,
                    used=used,
                    limit=limit,
                ),
                _(
                    "Raise its maxmemory, add a master, delete jobs, or shorten the retention. "
                    "Workers can still finish jobs, which frees memory."
                ),
                _PAGE,
                True,
                subject=address,
            )
        else:
            yield Problem(
                "master_nearly_full",
                _(
                    "The Redis master %(address)s is nearly full (%(used)s of %(limit)s)",
                    address=address,
                    used=used,
                    limit=limit,
                ),
                _(
                    "Raise its maxmemory, add a master, delete jobs, or shorten the retention. "
                    "At the limit new jobs are refused."
                ),
                _PAGE,
                subject=address,
            )
    if master["policy"] not in ("", "noeviction"):
        yield Problem(
            "eviction_policy",
            _(
                "The Redis master %(address)s may delete jobs when it is full "
                "(maxmemory-policy %(policy)s)",
                address=address,
                policy=master["policy"],
            ),
            _(
                "Run CONFIG SET maxmemory-policy noeviction on it, and write it into its "
                "configuration."
            ),
            _PAGE,
            True,
            subject=address,
        )


def _of_replicas(master: Node) -> Iterator[Problem]:
    for replica in master["replicas"]:
        nodes = {"replica": replica["address"], "master": master["address"]}
        if not replica["online"]:
            yield Problem(
                "replica_copies",
                _(
                    "The replica %(replica)s of %(master)s still copies the data, and cannot take "
                    "over",
                    **nodes,
                ),
                _("Wait until it is online. If that takes long, read the log of the replica."),
                _PAGE,
                subject=replica["address"],
            )
        elif (replica["lag_s"] or 0) >= _LAG_S:
            yield Problem(
                "replica_behind",
                _(
                    "The replica %(replica)s of %(master)s has acknowledged nothing for "
                    "%(duration)s",
                    duration=duration(replica["lag_s"] * 1000),
                    **nodes,
                ),
                _("Check the replica and its network. After a failover now, jobs would be lost."),
                _PAGE,
                subject=replica["address"],
            )


def _of_missing_replicas(masters: Sequence[Node]) -> Iterator[Problem]:
    """Report masters without a replica if others have one, as after a failover."""
    answering = [master for master in masters if master["answers"] and master["slots"]]
    without = [master["address"] for master in answering if not master["replicas"]]
    if without and len(without) < len(answering):
        yield Problem(
            "master_without_replica",
            ngettext(
                "A Redis master has no replica: %(addresses)s",
                "Redis masters have no replica: %(addresses)s",
                len(without),
                addresses=_named(without),
            ),
            _(
                "After a failover, start the old master again: it becomes the replica. Without "
                "one, the next loss stops the shards."
            ),
            _PAGE,
        )


def _of_hosts(masters: Sequence[Node]) -> Iterator[Problem]:
    """Report a host with so many masters that the others are no majority, if there are others.

    The host of a master is the one that it announces, as in the chart, otherwise that of its
    address. A cluster on one machine, such as that of ``make run``, has no other host to move to.
    """
    voters = [master for master in masters if master["slots"]]
    hosts = Counter(_host_of(master) for master in voters)
    if len(hosts) < 2:
        return
    ((host, announced), count) = hosts.most_common(1)[0]
    if count < 2 or 2 * (len(voters) - count) > len(voters):
        return
    given = {"host": host, "count": number(count), "total": number(len(voters))}
    yield Problem(
        "masters_on_one_host",
        _(
            "%(count)s of %(total)s Redis masters are on the host %(host)s: if it fails, the "
            "others cannot elect its replicas",
            **given,
        )
        if announced
        else _(
            "%(count)s of %(total)s Redis masters have the address %(host)s: if that host fails, "
            "the others cannot elect its replicas",
            **given,
        ),
        _(
            "Run CLUSTER FAILOVER on a replica of one of them that is on another host. The bundled "
            "Valkey of the chart does it by itself within ten seconds, if there is such a replica."
        ),
        _PAGE,
        subject=host,
    )


def _host_of(master: Node) -> tuple[str, bool]:
    """Return the host of a master, and whether it announces it."""
    host = master["host"]
    return (host or master["address"].rpartition(":")[0], bool(host))


def _of_schedulers(status: Mapping[str, Any], group: str) -> Iterator[Problem]:
    without = status["without_leader"]
    led = sum(each["shards"] + each["leads_meta"] for each in status["schedulers"])
    if without and not led:
        yield Problem(
            "no_scheduler",
            _("No scheduler is running: retries, schedules, expired leases and cron jobs wait"),
            _(
                "Start one (ojs-cluster scheduler), or read the log of the stopped one. This page "
                "looks for schedulers of the group %(group)s (OJS_SCHEDULER_GROUP).",
                group=group,
            ),
            _PAGE,
            True,
        )
    elif without:
        yield Problem(
            "shards_without_leader",
            ngettext(
                "%(number)s shard has no scheduler leader",
                "%(number)s shards have no scheduler leader",
                without,
                number=number(without),
            ),
            _(
                "Another scheduler takes over within OJS_SCHEDULER_LEASE. If this stays, read the "
                "logs of the schedulers."
            ),
            _PAGE,
        )


def _of_clocks(status: Mapping[str, Any]) -> Iterator[Problem]:
    """Report clocks of processes that are wrong, and masters whose clocks differ."""
    processes = (status["processes"] or {}).values()
    wrong = {each["host"]: each for each in processes if abs(each["clock_ahead_ms"]) > _WRONG_MS}
    if wrong:
        furthest_ms = max(abs(each["clock_ahead_ms"]) for each in wrong.values())
        yield Problem(
            "process_clock",
            _(
                "The clock of Redis differs from that of %(hosts)s by up to %(duration)s",
                hosts=_named(sorted(wrong)),
                duration=duration(furthest_ms),
            ),
            _(
                "Synchronize the clocks, by NTP for example. The server decides by the clock of "
                "Redis, but its logs and traces have wrong times."
            ),
            _PAGE,
        )
    apart_ms = status["clocks_apart_ms"]
    if apart_ms > _WRONG_MS:
        yield Problem(
            "master_clocks",
            _(
                "The clocks of the Redis masters differ by %(duration)s",
                duration=duration(apart_ms),
            ),
            _(
                "Synchronize them, by NTP for example. From 20 s on, steps of workflows and cron "
                "jobs may be refused."
            ),
            _PAGE,
            apart_ms > _TOO_WRONG_MS,
        )


def _named(names: Sequence[str]) -> str:
    """Return the first names of a list in one text."""
    return ", ".join(names[:_MAX_NAMED]) + (" …" if len(names) > _MAX_NAMED else "")


def _of_suspect_schemas(processes: Mapping[str, Any]) -> Iterator[Problem]:
    """Report the schemas with which an API process ended while it validated args."""
    names = sorted({name for each in processes.values() for name in each["suspect_schemas"]})
    if names:
        yield Problem(
            "suspect_schema",
            _(
                "An API process ended while it validated args with a schema: %(names)s",
                names=readable(_named(names)),
            ),
            _(
                "For ten minutes the schema is only used in a child process. Simplify it, or find "
                "out who sends such args."
            ),
            _PAGE,
        )
