"""Say in words what each step of a workflow, and a job of its own, waits for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import orjson

from ojs_cluster.core.durations import format_duration
from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.core.workflow import ENDED, WorkflowNode
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.queues.queues import QueueStats, get_stats
from ojs_cluster.store.features.rate_limits.rate_limits import RateLimitUsage, get_queue_limits
from ojs_cluster.store.features.workflows.read_workflows import (
    JobOutcome,
    WaitingJob,
    WorkflowRecord,
    waiting_of,
)
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.ui.drawings.dag import Step
from ojs_cluster.ui.formats import number
from ojs_cluster.ui.forms.limits import per_period
from ojs_cluster.ui.languages.translate import _, later, ngettext
from ojs_cluster.ui.patience import await_while_healthy
from ojs_cluster.ui.redaction.redaction import Value
from ojs_cluster.ui.visit import Visit

_MAX_QUEUES: Final = 20
"""Maximum number of queues of which the page of a workflow says whether they are paused."""
_MAX_LIMITED: Final = 5
"""Maximum number of queues whose limits the page reads."""
_MAX_NAMED: Final = 3
"""Maximum number of steps that are named as those that another one waits for."""
_PLACE: Final = "\0"
"""Stands in a text for what the page shows with a link."""
_TRIGGERS: Final = {
    "success": "%(steps)s",
    "complete": later("the end of %(steps)s"),
    "failure": later("a failure of %(steps)s"),
}
"""What a step waits for of the steps before it; ``success``: they must complete."""
_KEPT_S: Final = 2.0
"""Maximum age in seconds of what viewers share of the queue of a job."""
_NO_START: Final = "0"
"""Stands for a limit that lets no job start."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What a step or a job waits for: a text, with names or a time in it.

    Attributes:
        text: the text before these.
        steps: the steps in it, each with its label and its job, which is empty if it has none yet.
        more: how many further steps there are.
        queue: the queue, to which the page links; empty for none.
        limit_key: the rate limit key, to which the page links; empty for none.
        at: the time, as RFC 3339; empty for none.
        end: the text after.
        is_stopped: whether it takes an operator or a client to continue.
    """

    text: str
    steps: Sequence[Step] = ()
    more: int = 0
    queue: str = ""
    limit_key: str = ""
    at: str = ""
    end: str = ""
    is_stopped: bool = False


@dataclass(frozen=True, slots=True)
class Queues:
    """What is known of the queues of waiting steps, by their names.

    Attributes:
        stats: their numbers; without the queues that were not read.
        limits: how those at a limit are at it, in words; empty for those below their limits, and
            ``0`` for those whose limit lets no job start. Without the queues whose limits are not
            known.
        hidden: those that the API key of the user may not access.
    """

    stats: Mapping[str, QueueStats]
    limits: Mapping[str, str]
    hidden: frozenset[str] = field(default_factory=frozenset)

    @property
    def paused(self) -> list[str]:
        """The paused ones, by name."""
        return sorted(name for name, stats in self.stats.items() if stats.paused)


async def read_queues(visit: Visit, found: WorkflowRecord) -> Queues:
    """Return what a running workflow's waiting steps need of their queues.

    It has no more than the queues that the API key of the user may access. A queue of which Redis
    does not answer is left out: the workflow itself is still worth showing.
    """
    if found.state != "running":
        return Queues({}, {})
    # Those of enqueued steps first: they wait for the queue and for nothing else.
    pairs = sorted(
        zip(found.plan.jobs, found.jobs, strict=True), key=lambda pair: pair[1].state != "pending"
    )
    queues = dict.fromkeys(
        _queue_of(node, job) for node, job in pairs if job.state in ("pending", "waiting")
    )
    limited = {_queue_of(node, job) for node, job in pairs if _is_available(job.waiting)}
    return await _read(visit, queues, limited)


async def wait_of_job(visit: Visit, job_id: str, job_type: str) -> Wait | None:
    """Return what a job that the user may see waits for.

    Returns:
        What it waits for; None if it runs or has ended, and if Redis did not return it.
    """
    try:
        job = await read_jobs.get_waiting(visit.app.store, job_id)
        if job.state is State.ACTIVE or job.state in TERMINAL:
            return None
        waiting = waiting_of(job)
    except (OJSError, KeyError, ValueError):  # it has ended since, or its fields are malformed
        return None
    queues = await _read_one(visit, waiting.queue) if _is_available(waiting) else Queues({}, {})
    now_ms = visit.clock.now_ms()
    (wait,) = await without_hidden_keys(visit, [(_for_job(waiting, queues, now_ms), job_type)])
    return wait


async def _read_one(visit: Visit, queue: str) -> Queues:
    """Return what is known of the queue of an available job.

    Viewers of the whole cluster share the numbers, but not the words, which have a language.
    """
    admitted, store, snapshots = visit.principal.queues, visit.app.store, visit.snapshots
    if admitted is not None and not admitted.admits(queue):
        return Queues({}, {}, frozenset({queue}))
    name = f"waits {queue}"

    async def read() -> bytes:
        if not visit.sees_cluster:
            return await _read_known(store, queue)
        if visit.follows_change:
            snapshots.forget(name)
        return await snapshots.get(name, lambda: _read_known(store, queue), _KEPT_S)

    raw: bytes | None = None
    with suppress(OJSError):
        raw = await await_while_healthy(visit.app, read)
    if raw is None:
        return Queues({}, {})
    known = _decode_known(raw)
    limits: dict[str, str] = {}
    if known.usage is not None:
        limits[queue] = _limit_in_words(known.usage, known.stats.now_ms)
    return Queues({queue: known.stats}, limits)


class _Known(msgspec.Struct):
    """A queue, and how far its limits are used; None if that is not known."""

    stats: QueueStats
    usage: RateLimitUsage | None


_decode_known: Final = msgspec.json.Decoder(_Known).decode


async def _read_known(store: Store, queue: str) -> bytes:
    stats = await get_stats(store, queue)
    usage: RateLimitUsage | None = None
    if not stats.paused:
        with suppress(OJSError):
            usage = (await get_queue_limits(store, queue)).usage
    return msgspec.json.encode(_Known(stats, usage))


async def without_hidden_keys(
    visit: Visit, waits: Iterable[tuple[Wait | None, str]]
) -> list[Wait | None]:
    """Return waits without the rate limit keys that the operator hides in jobs.

    Args:
        visit: the request.
        waits: what jobs wait for, each with the type of the job.
    """
    found: list[Wait | None] = []
    values: dict[int, Value] = {}
    for place, (wait, job_type) in enumerate(waits):
        found.append(wait)
        if wait is not None and wait.limit_key:
            raw = orjson.dumps({"key": wait.limit_key})
            values[place] = Value(raw, ("options", "rate_limit"), job_type)
    shown = await visit.redaction.apply(list(values.values()))
    for (place, value), raw in zip(values.items(), shown, strict=True):
        if raw is not value.raw:
            found[place] = Wait(_("a rate limit key"))
    return found


async def _read(visit: Visit, queues: Collection[str], limited: Collection[str]) -> Queues:
    """Return what is known of queues.

    Args:
        visit: the request.
        queues: their names, the most important first.
        limited: those that have an available job, so that their limits matter.
    """
    stats: dict[str, QueueStats] = {}
    limits: dict[str, str] = {}
    store, admitted = visit.app.store, visit.principal.queues
    shown = [queue for queue in queues if admitted is None or admitted.admits(queue)]

    async def read(queue: str) -> None:
        with suppress(OJSError):
            stats[queue] = await get_stats(store, queue)

    async def read_limits(queue: str) -> None:
        with suppress(OJSError):
            usage = (await get_queue_limits(store, queue)).usage
            limits[queue] = _limit_in_words(usage, stats[queue].now_ms)

    async def read_all() -> None:
        await run_concurrently(shown[:_MAX_QUEUES], read)
        open_ones = [
            name for name in shown if name in limited and name in stats and not stats[name].paused
        ]
        await run_concurrently(open_ones[:_MAX_LIMITED], read_limits)

    if shown:
        await await_while_healthy(visit.app, read_all)
    return Queues(stats, limits, frozenset(queues).difference(shown))


def wait_of(
    found: WorkflowRecord,
    node: WorkflowNode,
    steps: Sequence[Step],
    queues: Queues,
    now_ms: int,
) -> Wait | None:
    """Return what a step waits for.

    Args:
        found: the workflow.
        node: the step in the plan.
        steps: all steps of the drawing, by the numbers of their jobs.
        queues: what is known of the queues.
        now_ms: the present time in Unix milliseconds.

    Returns:
        What it waits for; None if it runs or has ended.
    """
    job = found.jobs[node.job]
    # A node status and no job state: a ``waiting`` step has no job yet, a ``pending`` one may have.
    if job.state == "waiting":
        before = [steps[place] for place in sorted(steps[node.job].deps)]
        return _for_steps(_trigger_of(found, node), before)
    if job.state != "pending":
        return None
    if job.waiting is None:
        return _for_scheduler()
    return _for_job(job.waiting, queues, now_ms)


def _for_job(waiting: WaitingJob, queues: Queues, now_ms: int) -> Wait:
    """Return what an enqueued job waits for."""
    if waiting.held:
        return Wait(_("its agent, which is paused"), is_stopped=True)
    if waiting.state in (State.SCHEDULED, State.RETRYABLE):
        due_ms = waiting.due_ms or 0
        if due_ms <= now_ms:
            return _for_scheduler()
        what = (
            _("its start time, %(time)s", time=_PLACE)
            if waiting.state is State.SCHEDULED
            else _("its next attempt, %(time)s", time=_PLACE)
        )
        return _wait(what, at=format_ms(due_ms).decode())
    if waiting.state is State.PENDING:
        return Wait(_("a client, which must activate it"), is_stopped=True)
    return _for_queue(waiting.queue, waiting.limit_key, queues)


def _queue_of(node: WorkflowNode, job: JobOutcome) -> str:
    """Return the queue of a step. An operator may have moved its job."""
    return node.queue if job.waiting is None else job.waiting.queue


def _trigger_of(found: WorkflowRecord, node: WorkflowNode) -> str:
    """Return the trigger of a step, or of the nested workflow that waits in its place."""
    while not node.deps and node.parent >= 0:
        node = found.plan.nodes[node.parent]
    return node.trigger


def _for_steps(trigger: str, before: Iterable[Step]) -> Wait:
    left = [each for each in before if each.state not in ENDED]
    if not left:
        return _for_scheduler()
    what = _(_TRIGGERS[trigger], steps=_PLACE)
    return _wait(what, steps=left[:_MAX_NAMED], more=max(0, len(left) - _MAX_NAMED))


def _wait(text: str, **fields: Any) -> Wait:
    """Return what a step waits for, of a text with a place for what the page shows with a link."""
    before, _place, end = text.partition(_PLACE)
    return Wait(before, end=end, **fields)


def _for_scheduler() -> Wait:
    return Wait(_("the scheduler, which enqueues it now"))


def _for_queue(queue: str, limit_key: str, queues: Queues) -> Wait:
    """Return what an available job of a queue waits for."""
    if queue in queues.hidden:
        return Wait(_("a queue that your API key may not access"))
    stats = queues.stats.get(queue)
    if stats is not None and stats.paused:
        return paused_queue(queue)
    if limit_key:
        return _wait(_("the rate limit key %(key)s", key=_PLACE), limit_key=limit_key)
    if stats is None:
        text = _("its queue %(queue)s, of which nothing is known now", queue=_PLACE)
        return _wait(text, queue=queue)
    limit = queues.limits.get(queue)
    if limit is None:
        return _wait(_("a worker or a limit of %(queue)s", queue=_PLACE), queue=queue)
    if limit == _NO_START:
        text = _("the limit of %(queue)s, which lets no job start", queue=_PLACE)
        return _wait(text, queue=queue, is_stopped=True)
    if limit:
        return _wait(_("the limit of %(queue)s: %(limit)s", queue=_PLACE, limit=limit), queue=queue)
    available = stats.counts[State.AVAILABLE]
    if available <= 1:
        return _wait(_("a worker of %(queue)s", queue=_PLACE), queue=queue)
    text = ngettext(
        "a worker of %(queue)s, which has %(number)s available job",
        "a worker of %(queue)s, which has %(number)s available jobs",
        available,
        queue=_PLACE,
        number=number(available),
    )
    return _wait(text, queue=queue)


def paused_queue(queue: str) -> Wait:
    """Return that a step waits for a queue that is paused."""
    text = _("the queue %(queue)s, which is paused", queue=_PLACE)
    return _wait(text, queue=queue, is_stopped=True)


def no_worker(queue: str) -> Wait:
    """Return that a step waits for a worker of a queue from which none fetches."""
    text = _("no worker fetches from the queue %(queue)s", queue=_PLACE)
    return _wait(text, queue=queue, is_stopped=True)


def _is_available(waiting: WaitingJob | None) -> bool:
    return waiting is not None and waiting.state is State.AVAILABLE


def _limit_in_words(usage: RateLimitUsage, now_ms: int) -> str:
    """Return which limit lets no job start now, as ``Queues.limits`` has it."""
    limits = usage.limits
    if limits.concurrency == 0:
        return _NO_START
    if limits.concurrency is not None and usage.active >= limits.concurrency:
        return ngettext(
            "%(active)s of %(number)s job run",
            "%(active)s of %(number)s jobs run",
            limits.concurrency,
            active=number(usage.active),
            number=number(limits.concurrency),
        )
    if limits.rate is not None and usage.started >= limits.rate.limit:
        return ngettext(
            "%(number)s start %(per_period)s",
            "%(number)s starts %(per_period)s",
            limits.rate.limit,
            number=number(limits.rate.limit),
            per_period=per_period(format_duration(limits.rate.period_ms)),
        )
    if usage.next_ms is not None and usage.next_ms > now_ms:
        return _("its starts are evenly spaced")
    return ""
