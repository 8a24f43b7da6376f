"""The workers, and one worker with its jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import trio

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.core.raw_json import Raw
from ojs_cluster.core.search import quoted
from ojs_cluster.http import replies
from ojs_cluster.http.handlers.workers.list_workers import worker_json
from ojs_cluster.store.features.workers.lists import list_workers
from ojs_cluster.ui import raw
from ojs_cluster.ui.formats import epoch_s
from ojs_cluster.ui.forms.form import confirmation, is_confirmed
from ojs_cluster.ui.incidents import RESTART_MINUTES
from ojs_cluster.ui.json_view import HIDDEN, show_json
from ojs_cluster.ui.languages.translate import _, later
from ojs_cluster.ui.pages.shared.held_jobs import MAX_ACTIVE, HeldJobs, read_held_jobs
from ojs_cluster.ui.pages.shared.ordered import Sorts, by_number, by_time, order_of
from ojs_cluster.ui.redaction.redaction import Value
from ojs_cluster.ui.redaction.rules import HIDDEN_JSON
from ojs_cluster.ui.serving import MAX_WORKERS
from ojs_cluster.ui.visit import Answer, Page, Visit

_PER_PAGE: Final = 50
_FILTERS: Final = ("host", "state", "queue")
_SORTS_WITHOUT_JOBS: Final[Sorts] = {
    "id": lambda each: each["id"],
    "host": lambda each: (each["host"], each["id"]),
    **{name: by_number(name) for name in ("restarts", "active_jobs", "memory_bytes")},
    **{name: by_time(name) for name in ("seen_at", "started_at")},
}
_SORTS: Final[Sorts] = {**_SORTS_WITHOUT_JOBS, "oldest": lambda each: each["oldest_at"]}
_ALL: Final = "all-workers"
_KEPT_S: Final = 4.0
"""Maximum age of the list of all workers in seconds, on open pages. It reads a record for each."""
_LEFT_S: Final = 60
"""Number of seconds of silence after which a stale worker has left."""
_MAX_SERVING: Final = 100
"""Number of workers among which the page of a queue searches those that report the queue."""
_MAX_NAMED: Final = 10
"""Maximum number of workers that the page of a queue names."""
_SERVER: Final = frozenset(
    {
        *("id", "worker_id", "state", "directive", "active_jobs", "last_heartbeat", "queues"),
        *("last_heartbeat_at", "started_at", "stale", "jobs", "jobs_complete"),
    }
)
"""Members that the server adds; the worker has reported all others."""
_ALWAYS_SHOWN: Final = _SERVER - {"queues"}
_LISTED: Final = (
    *("id", "state", "directive", "active_jobs", "last_heartbeat", "started_at", "queues"),
    *("hostname", "pid", "memory_bytes", "concurrency"),
)
"""The members that the list shows."""
"""Members that are shown although ``OJS_UI_REDACT`` has their names. The worker reports its queues
itself."""
_DIRECTIVES: Final = {
    "quiet": later("The worker gets no new jobs, and finishes those that it has."),
    "resume": later("The worker gets jobs again."),
    "terminate": later("The worker finishes its jobs and ends."),
}


@dataclass(frozen=True, slots=True)
class QueueWorkers:
    """The workers that report a queue.

    Attributes:
        workers: some of them, those that were seen last.
        more: the number of the others.
        searched: the number of workers that were searched.
        is_cut: whether there are workers that were not searched.
        takes_jobs: whether one of them gets new jobs.
    """

    workers: Sequence[Mapping[str, Any]]
    more: int
    searched: int
    is_cut: bool
    takes_jobs: bool


async def show_all(visit: Visit) -> Answer:
    """List the workers by their ids, so that rows stay where they are.

    With ``sort=oldest``, list those that hold jobs, by the start of the oldest one. The filters are
    in the address, too. A worker that has been silent for a minute has left: it is not listed, but
    its host shows how often workers have left it of late.
    """
    found = await _read_summary(visit)
    held = await read_held_jobs(visit)
    order = order_of(visit, "workers", _SORTS if held else _SORTS_WITHOUT_JOBS, _FILTERS)
    filters, by_job = order.filters, order.sort == "oldest"
    everyone = await _read_all(visit)
    summary, now_s = orjson.loads(bytes(found["summary"])), visit.clock.now_s()
    left = [each for each in everyone if _has_left(each, now_s)]
    summary["stale"] = max(0, summary["stale"] - len(left))
    summary["total"] -= len(left)
    workers = [each for each in everyone if not _has_left(each, now_s) and _fits(each, filters)]
    restarts = Counter(
        each["host"]
        for each in left
        if each["host"] and now_s - (epoch_s(each["started_at"]) or 0) < RESTART_MINUTES * 60
    )
    for worker in workers:
        worker["restarts"] = restarts[worker["host"]]
        if held is not None:
            _add_held(worker, held)
    if by_job and held is not None:
        places = {name: place for place, name in enumerate(held.by_worker)}
        workers = [each for each in workers if each["id"] in places]
        workers.sort(key=lambda each: places[each["id"]])
    else:
        workers = order.sorted(workers)
    first = (visit.page - 1) * _PER_PAGE
    return Page(
        "workers.html",
        {
            "workers": workers[first : first + _PER_PAGE],
            "found": len(workers),
            "order": order,
            "by_job": by_job,
            "held": held,
            "max_active": MAX_ACTIVE,
            "max_workers": MAX_WORKERS,
            "left": len(left),
            "restart_minutes": RESTART_MINUTES,
            "summary": summary,
            "page": visit.page,
            "has_more": first + _PER_PAGE < len(workers),
            "may_write": visit.may_change(Scope.ADMIN_WRITE),
        },
    )


async def _read_all(visit: Visit) -> list[dict[str, Any]]:
    """Return the workers that were seen last, by their ids. Open pages share what is read."""
    if not visit.is_refresh:
        visit.snapshots.forget(_ALL)

    async def read() -> bytes:
        store, now = visit.app.store, visit.clock.now_ms()
        workers, _total, _last = await list_workers(store, limit=MAX_WORKERS)
        listed = []
        for worker in workers:
            await trio.lowlevel.checkpoint()  # each may describe itself by many members
            members = raw.members(worker_json(visit.app, worker, worker.status(store, now)))
            shown = [b'"%b":%b' % (n.encode(), bytes(members[n])) for n in _LISTED if n in members]
            listed.append(b"{%b}" % b",".join(shown))
        return b'{"items":[%b]}' % b",".join(listed)

    listed = raw.objects(raw.members(await visit.snapshots.get(_ALL, read, _KEPT_S)), "items")
    found = []
    for members in await _hide(visit, listed):
        await trio.lowlevel.checkpoint()
        found.append(_worker(members))
    return sorted(found, key=lambda each: each["id"])


async def _read_summary(visit: Visit) -> raw.Members:
    """Return a page of the API without workers: it counts as a request, and has the numbers."""
    return raw.members(await visit.get("admin", "workers", page=1, per_page=1, sort="id"))


def _has_left(worker: Mapping[str, Any], now_s: float) -> bool:
    """Return whether a worker is silent, and has been for a minute."""
    seen_s = epoch_s(worker["seen_at"]) or 0.0
    return bool(worker["state"] == "stale" and now_s - seen_s > _LEFT_S)


def _fits(worker: Mapping[str, Any], filters: Mapping[str, str]) -> bool:
    """Return whether a worker matches the filters."""
    state, queue, host = (filters[name] for name in ("state", "queue", "host"))
    return (
        (not state or worker["state"] == state)
        and (not queue or queue in worker["queues"])
        and host in f"{worker['host']} {worker['id']}"
    )


async def show_one(visit: Visit, worker_id: str) -> Answer:
    """Show one worker with the jobs that it holds."""
    members = raw.members(await visit.get("admin", "workers", worker_id))
    (members,) = await _hide(visit, [members])
    reported = {
        name: show_json(bytes(value), redacted=visit.redaction.active)
        for name, value in members.items()
        if name not in _SERVER
    }
    worker = _worker(members)
    jobs = [
        {name: raw.text(job, name) for name in ("id", "type", "queue", "started_at")}
        for job in raw.objects(members, "jobs")
    ]
    is_complete = bytes(members["jobs_complete"]) == b"true"
    _count_jobs(worker, len(jobs), is_complete=is_complete)
    return Page(
        "worker.html",
        {
            "worker": worker,
            "reported": reported,
            "jobs": jobs,
            "complete": is_complete,
            "may_write": visit.may_change(Scope.ADMIN_WRITE),
        },
    )


async def workers_of(visit: Visit, queue: str) -> QueueWorkers | None:
    """Return the workers that report a queue among theirs.

    Viewers share the list of the workers that were seen last.

    Returns:
        The workers; None for a key for some queues, while Redis does not answer, and if the
        operator hides the queues of workers.
    """
    if not visit.sees_cluster:
        return None
    known = await visit.shared_or_last("admin", "workers", page=1, per_page=_MAX_SERVING)
    if known is None:
        return None
    found = raw.members(known.value)
    listed = raw.objects(found, "items")
    shown = await _hide(visit, listed)
    pairs = zip(listed, shown, strict=True)
    if any(bytes(old["queues"]) != bytes(new["queues"]) for old, new in pairs):
        return None
    serving = [
        worker
        for worker in map(_worker, shown)
        if queue in worker["queues"] and worker["state"] != "stale"
    ]
    total = orjson.loads(bytes(found["summary"]))["total"]
    return QueueWorkers(
        serving[:_MAX_NAMED],
        max(0, len(serving) - _MAX_NAMED),
        len(listed),
        is_cut=total > len(listed),
        takes_jobs=any(worker["state"] == "running" for worker in serving),
    )


async def direct(visit: Visit, worker_id: str, directive: str) -> Answer:
    """Send a directive to a worker."""
    if directive == "terminate" and not is_confirmed(visit):
        return confirmation(
            visit,
            _("Terminate the worker %(id)s?", id=worker_id),
            _(
                "The worker gets no new jobs, finishes those that it has, and its process ends. It "
                "runs again only if something on its host starts it, such as a supervisor or "
                "Kubernetes. To let it rest, send it quiet instead."
            ),
            _("Terminate the worker"),
            visit.url("workers", worker_id),
        )
    body = {"directive": directive, "worker_ids": [worker_id]}
    reply = orjson.loads(await visit.send("POST", "admin", "workers", "directive", body=body))
    if not reply["affected_workers"]:
        return visit.back(_("The worker is not known any more."), "workers")
    note = _(_DIRECTIVES[directive]) if directive in _DIRECTIVES else _("The directive is sent.")
    return visit.back(note, "workers")


async def deregister(visit: Visit, worker_id: str) -> Answer:
    """Remove a worker that has missed its heartbeats."""
    await visit.send("DELETE", "admin", "workers", worker_id)
    return visit.back(_("The worker is removed. Its jobs are available again."), "workers")


def _add_held(worker: dict[str, Any], held: HeldJobs) -> None:
    """Say how many jobs a worker holds, and which of them has run for the longest time."""
    own = held.by_worker.get(worker["id"])
    _count_jobs(worker, 0 if own is None else own.count, is_complete=held.is_complete)
    if own is not None:
        worker |= {"oldest_at": replies.iso(own.since_ms), "oldest_job": own.job_id}


def _count_jobs(worker: dict[str, Any], held: int, *, is_complete: bool) -> None:
    """Say how many jobs a worker holds, and whether it can be stopped.

    A worker reports its number of jobs with a heartbeat, and may have got more since.

    Args:
        worker: the worker as the page shows it.
        held: number of active jobs that were found.
        is_complete: whether all active jobs of the worker were found.
    """
    reported = worker["active_jobs"] or 0
    worker["active_jobs"] = max(reported, held)
    is_quiet = worker["state"] in ("quiet", "terminate")
    worker["can_be_stopped"] = is_quiet and is_complete and not worker["active_jobs"]


async def _hide(visit: Visit, workers: Sequence[raw.Members]) -> list[raw.Members]:
    """Return workers without what the operator hides of what they have reported."""
    parts = [(n, name) for n, each in enumerate(workers) for name in each.keys() - _ALWAYS_SHOWN]
    values = [Value(bytes(workers[n][name]), ("worker", name.lower())) for n, name in parts]
    found = [dict(each) for each in workers]
    for (n, name), shown in zip(parts, await visit.redaction.apply(values), strict=True):
        found[n][name] = Raw(shown)
    return found


def _worker(members: raw.Members) -> dict[str, Any]:
    hidden = {name for name, value in members.items() if bytes(value) == HIDDEN_JSON}
    return {
        **{name: raw.text(members, name) for name in ("id", "state", "directive")},
        "active_jobs": raw.integer(members, "active_jobs"),
        "can_be_stopped": False,
        "restarts": 0,
        "oldest_at": "",
        "oldest_job": "",
        "seen_at": raw.text(members, "last_heartbeat"),
        "started_at": raw.text(members, "started_at"),
        "queues": raw.texts(members, "queues"),
        "host": HIDDEN if "hostname" in hidden else raw.text(members, "hostname"),
        "pid": HIDDEN if "pid" in hidden else raw.number(members, "pid"),
        "memory_bytes": raw.integer(members, "memory_bytes"),
        "concurrency": HIDDEN if "concurrency" in hidden else raw.number(members, "concurrency"),
        "search": f"worker:{quoted(raw.text(members, 'id'))} state:active",
    }
