"""Problems of jobs, queues, workers and effects, and maintenance mode."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from ojs_cluster.http.problems import Problem
from ojs_cluster.store.operators.operations.metrics import ClusterMetrics
from ojs_cluster.ui.formats import duration, epoch_s, number
from ojs_cluster.ui.json_view import readable
from ojs_cluster.ui.languages.translate import _, ngettext
from ojs_cluster.ui.serving import ParkedType

_OLD_MS: Final = 5 * 60_000
"""Age in milliseconds from which an available job counts as old."""
_LATE_MS: Final = 10_000
"""Delay of a scheduler loop in milliseconds from which it is reported."""
_MAX_NAMED: Final = 3


def problems_of_maintenance(maintenance: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the problem of maintenance mode, from the members that the API shows."""
    if maintenance["enabled"]:
        refused, since_s = maintenance["refused"], epoch_s(maintenance["started_at"])
        yield Problem(
            "maintenance",
            _("Maintenance mode is on: %(name)s requests are refused", name=refused[0])
            if len(refused) == 1
            else _("Maintenance mode is on: enqueue and fetch requests are refused"),
            _("Switch it off when the work is done."),
            ("operations",),
            True,
            since_ms=None if since_s is None else int(since_s * 1000),
        )


def problems_of_stats(stats: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the problems in the statistics of the API."""
    waiting = stats["jobs"]["available"]
    if waiting and stats.get("workers") == 0:
        yield Problem(
            "no_worker",
            ngettext(
                "%(number)s job waits, and no worker is connected",
                "%(number)s jobs wait, and no worker is connected",
                waiting,
                number=number(waiting),
            ),
            _("Start workers, and check that they use the right address and key."),
            ("jobs",),
            True,
            {"state": "available"},
        )
    if dead := stats["dead_letters"]:
        what = ngettext(
            "%(number)s job is a dead letter",
            "%(number)s jobs are dead letters",
            dead,
            number=number(dead),
        )
        yield Problem("dead_letters", what, _("Find out why, then retry or delete."), ("dead",))


def problems_of_workers(silent: Sequence[str]) -> Iterator[Problem]:
    """Yield the problem of stale workers that hold jobs. It ends without an operator.

    Args:
        silent: the workers, by name.
    """
    if silent:
        yield Problem(
            "silent_worker",
            ngettext(
                "The worker %(names)s has missed its heartbeats and still holds jobs",
                "The workers %(names)s have missed their heartbeats and still hold jobs",
                len(silent),
                names=readable(_first(silent)),
            ),
            _(
                "The scheduler makes these jobs available again. If this stays, check whether a "
                "scheduler runs."
            ),
            ("workers",) if len(silent) > 1 else ("workers", silent[0]),
        )


def problems_of_metrics(
    metrics: ClusterMetrics,
    *,
    now_ms: int,
    is_explained: bool,
    unserved: Sequence[str] = (),
    parked: Sequence[ParkedType] = (),
    limited: Collection[str] = (),
) -> Iterator[Problem]:
    """Yield the problems in the metrics.

    Args:
        metrics: the metrics.
        now_ms: the present time in Unix milliseconds.
        is_explained: whether a severe problem of the masters or the schedulers is reported. Silent
            shards and late loops are then its consequences.
        unserved: queues whose jobs wait because no worker fetches them, the longest waiting first.
        parked: types whose jobs wait because no worker runs them, most jobs first.
        limited: queues whose jobs wait for a rate limit key, which is reported.
    """
    if metrics.unreachable and not is_explained:
        yield Problem(
            "shards_unreachable",
            ngettext(
                "%(number)s shard did not answer in time",
                "%(number)s shards did not answer in time",
                metrics.unreachable,
                number=number(metrics.unreachable),
            ),
            _("Check the load and the state of the Redis masters."),
            (),
            True,
        )
    late = {name: ms for name, ms in metrics.late_ms.items() if ms >= _LATE_MS}
    if late and not is_explained:
        yield Problem(
            "scheduler_late",
            _(
                "The scheduler is behind: the loop %(names)s is %(duration)s late",
                names=", ".join(late),
                duration=duration(max(late.values())),
            ),
            _(
                "Read the log of the schedulers, and check the load of the Redis masters. More "
                "schedulers share the shards."
            ),
            ("cluster",),
            True,
            since_ms=now_ms - max(late.values()),
        )
    if failed := metrics.outbox_dead_letters:
        what = ngettext(
            "%(number)s effect between shards failed too often",
            "%(number)s effects between shards failed too often",
            failed,
            number=number(failed),
        )
        action = _("Remove the cause, then deliver them again.")
        yield Problem("outbox_dead_letters", what, action, ("operations",))
    paused = [name for name, queue in metrics.queues.items() if queue.paused]
    if paused:
        yield Problem(
            "queue_paused",
            ngettext(
                "Queue %(names)s is paused",
                "Queues %(names)s are paused",
                len(paused),
                names=_named(paused),
            ),
            _("Resume it when its jobs should run again."),
            ("queues",) if len(paused) > 1 else ("queues", paused[0]),
        )
    if unserved:
        yield Problem(
            "queue_without_worker",
            ngettext(
                "Jobs wait in the queue %(names)s, and no worker fetches from it",
                "Jobs wait in the queues %(names)s, and no worker fetches from them",
                len(unserved),
                names=_first(unserved),
            ),
            _("Start workers for these jobs, or check from which queues the workers fetch."),
            ("queues", unserved[0]),
            # A worker without an id may serve the queue unseen, so only old jobs are severe.
            any(_is_old(metrics, name) for name in unserved),
            since_ms=now_ms - max(_oldest_ms(metrics, name) for name in unserved),
        )
    parked = [each for each in parked if each.queue not in unserved]
    for each in parked[:_MAX_NAMED]:
        yield Problem(
            "type_without_worker",
            ngettext(
                "No worker runs the type %(type)s: %(number)s job waits in the queue %(queue)s",
                "No worker runs the type %(type)s: %(number)s jobs wait in the queue %(queue)s",
                each.count,
                type=readable(each.type),
                number=number(each.count),
                queue=readable(each.queue),
            ),
            _("Start workers that have a handler for it, or cancel these jobs."),
            ("jobs",),
            _is_old(metrics, each.queue),
            {"state": "available", "queue": each.queue, "type": each.type},
            f"{each.queue}/{each.type}",
            each.since_ms,
        )
    explained = {*unserved, *limited, *(each.queue for each in parked)}
    old = {
        name: queue.oldest_ms
        for name, queue in metrics.queues.items()
        if queue.oldest_ms >= _OLD_MS and not queue.paused and name not in explained
    }
    if old:
        oldest = max(old, key=lambda name: old[name])
        yield Problem(
            "old_jobs",
            ngettext(
                "Jobs of the queue %(names)s have waited for up to %(duration)s",
                "Jobs of the queues %(names)s have waited for up to %(duration)s",
                len(old),
                names=_named(sorted(old, key=lambda name: -old[name])),
                duration=duration(old[oldest]),
            ),
            _("Add workers for these queues, or check whether their workers are stuck."),
            ("queues", oldest),
            True,
            since_ms=now_ms - old[oldest],
        )


def _is_old(metrics: ClusterMetrics, name: str) -> bool:
    return _oldest_ms(metrics, name) >= _OLD_MS


def _oldest_ms(metrics: ClusterMetrics, name: str) -> int:
    queue = metrics.queues.get(name)
    return 0 if queue is None else queue.oldest_ms


def _first(names: Sequence[str]) -> str:
    """Return the first names, and whether there are more."""
    return ", ".join(names[:_MAX_NAMED]) + (" …" if len(names) > _MAX_NAMED else "")


def _named(queues: list[str]) -> str:
    shown = ", ".join(queues[:_MAX_NAMED])
    more = len(queues) - _MAX_NAMED
    if more <= 0:
        return shown
    return ngettext(
        "%(names)s and %(number)s more",
        "%(names)s and %(number)s more",
        more,
        names=shown,
        number=number(more),
    )
