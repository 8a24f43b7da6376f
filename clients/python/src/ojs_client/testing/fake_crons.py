"""The cron jobs of the fake server (spec: ojs-cron)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ojs_client.testing.fake_jobs import FakeJob
from ojs_client.testing.job_store import JobStore
from ojs_client.testing.refusals import Refusal, invalid, not_found
from ojs_client.testing.schedules import Schedule
from ojs_client.testing.times import iso

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9\-.]{0,254}")
_OVERLAPS: Final = ("skip", "allow", "cancel_previous", "enqueue")
_SETTINGS: Final = ("expression", "timezone", "overlap_policy", "enabled", "description")
_MAX_WAITING_RUNS: Final = 100
_HISTORY_KEPT: Final = 100


@dataclass(slots=True)
class FakeCron:
    """A cron job.

    Attributes:
        name: its name.
        schedule: when it is due.
        overlap: what happens while earlier jobs are unfinished.
        enabled: whether it fires.
        description: a text for people; None without one.
        template: the enqueue request of its jobs.
        created_ms: when it was created. All times are Unix times in milliseconds.
        updated_ms: when it was changed.
        anchor_ms: when the first interval of ``@every`` began.
        next_ms: when it is due; None for never.
        last_ms: when it has enqueued a job; None if it has not.
        count: number of jobs that it has enqueued.
        jobs: its jobs that may be unfinished, oldest first.
        history: its occurrences, newest first.
    """

    name: str
    schedule: Schedule
    overlap: str
    enabled: bool
    description: str | None
    template: dict[str, Any]
    created_ms: int
    updated_ms: int
    anchor_ms: int
    next_ms: int | None
    last_ms: int | None = None
    count: int = 0
    jobs: list[FakeJob] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """Return the cron job as the server shows it."""
        expression, options = self.schedule.expression, self.template.get("options") or {}
        return {
            "name": self.name,
            "id": self.name,
            "expression": expression,
            "cron": expression,
            "schedule": expression,
            "timezone": self.schedule.timezone,
            "overlap_policy": self.overlap,
            "enabled": self.enabled,
            "status": "active" if self.enabled else "paused",
            "description": self.description,
            "type": self.template["type"],
            "args": self.template["args"],
            "options": options,
            "meta": self.template.get("meta") or {},
            "queue": options.get("queue", "default"),
            "job_template": self.template,
            "next_run_at": None if self.next_ms is None else iso(self.next_ms),
            "last_run_at": None if self.last_ms is None else iso(self.last_ms),
            "run_count": self.count,
            "created_at": iso(self.created_ms),
            "updated_at": iso(self.updated_ms),
        }


class CronStore:
    """The cron jobs of a fake server.

    Args:
        jobs: gets their jobs.
    """

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs
        self._crons: dict[str, FakeCron] = {}

    def get(self, name: str) -> FakeCron:
        """Return a cron job.

        Raises:
            Refusal: there is none of this name.
        """
        if name not in self._crons:
            raise not_found("cron", name)
        return self._crons[name]

    def page(self, cursor: str, offset: int, limit: int) -> tuple[list[FakeCron], str | None, int]:
        """Return some cron jobs, the enabled first, then by name, and the number of all.

        Args:
            cursor: the cursor of the page before; empty for the first page.
            offset: the number of cron jobs before the page, if there is no cursor.
            limit: the maximum number of cron jobs.

        Returns:
            The cron jobs, the cursor of the next page if there is one, and the number of all.
        """

        def order(cron: FakeCron) -> str:
            return f"{int(not cron.enabled)} {cron.name}"

        ordered = sorted(self._crons.values(), key=order)
        rest = [cron for cron in ordered if order(cron) > cursor] if cursor else ordered[offset:]
        page = rest[:limit]
        return page, order(page[-1]) if len(rest) > limit else None, len(ordered)

    def register(self, body: Mapping[str, Any]) -> FakeCron:
        """Store a cron job, or replace the one of the same name.

        Raises:
            Refusal: the cron job is invalid.
        """
        name, expression = body.get("name"), body.get("expression")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise invalid("name must be of a-z, 0-9, '-' and '.'", "name")
        if not isinstance(expression, str):
            raise invalid("a cron job needs an expression", "expression")
        schedule = Schedule(expression, body.get("timezone") or "UTC")
        overlap, enabled = body.get("overlap_policy") or "skip", body.get("enabled", True)
        if overlap not in _OVERLAPS:
            raise invalid(f"overlap_policy must be one of {', '.join(_OVERLAPS)}", "overlap_policy")
        if not isinstance(enabled, bool):
            raise invalid("enabled must be true or false", "enabled")
        template = body.get("job_template")
        if not isinstance(template, dict):
            raise invalid("job_template must be an object", "job_template")
        template = {"args": [], **{k: v for k, v in template.items() if k != "id"}}
        now = self._jobs.now_ms
        FakeJob.from_request(template, now)  # raises now, and not at each occurrence
        new = FakeCron(
            name=name,
            schedule=schedule,
            overlap=overlap,
            enabled=enabled,
            description=body.get("description"),
            template=template,
            created_ms=now,
            updated_ms=now,
            anchor_ms=now,
            next_ms=schedule.following(now, now) if enabled else None,
        )
        old = self._crons.get(name)
        if old is not None:
            new.created_ms, new.last_ms, new.count = old.created_ms, old.last_ms, old.count
            new.jobs, new.history = old.jobs, old.history
            if _when(old) == _when(new):  # registering again delays no occurrence
                new.anchor_ms, new.next_ms = old.anchor_ms, old.next_ms
        self._crons[name] = new
        return new

    def change(self, name: str, changes: Mapping[str, Any]) -> FakeCron:
        """Replace members of a cron job.

        Raises:
            Refusal: there is none of this name, or a member is invalid.
        """
        old = self.get(name)
        known = {setting: old.json()[setting] for setting in _SETTINGS}
        given = {key: value for key, value in changes.items() if key in _SETTINGS}
        members = {k: v for k, v in changes.items() if k not in (*_SETTINGS, "name")}
        template = members.pop("job_template", None) or {**old.template, **members}
        return self.register({"name": name, **known, **given, "job_template": template})

    def delete(self, name: str) -> FakeCron:
        """Delete a cron job.

        Raises:
            Refusal: there is none of this name.
        """
        cron = self.get(name)
        del self._crons[name]
        return cron

    def next_due_ms(self) -> int | None:
        """Return when the next cron job is due, as Unix time in ms; None for never."""
        return min((it.next_ms for it in self._crons.values() if it.next_ms), default=None)

    def fire_due(self) -> None:
        """Fire all cron jobs that are due."""
        for cron in list(self._crons.values()):
            due_ms = cron.next_ms
            if due_ms is None or due_ms > self._jobs.now_ms:
                continue
            cron.next_ms = cron.schedule.following(self._jobs.now_ms, cron.anchor_ms)
            unfinished = _unfinished(cron)
            limit = {"skip": 1, "enqueue": _MAX_WAITING_RUNS}.get(cron.overlap)
            if limit is not None and len(unfinished) >= limit:
                skipped = {"active_job_id": unfinished[0].id}
                self._record(cron, due_ms, "skipped", "overlap_skip", skipped)
                continue
            try:
                self._fire(cron, due_ms, "schedule")
            except Refusal as refusal:
                self._record(cron, due_ms, "failed", "unusable_job", {"error": refusal.message})

    def trigger(self, name: str) -> tuple[FakeCron, FakeJob, bool]:
        """Enqueue the job of a cron job now, whether it is enabled or not.

        Returns:
            The cron job, the job, and whether the job existed already.

        Raises:
            Refusal: there is none of this name, or its job conflicts with another one.
        """
        cron = self.get(name)
        job, deduplicated = self._fire(cron, self._jobs.now_ms, "manual")
        return cron, job, deduplicated

    def on_job_ended(self, ended: FakeJob) -> None:
        """Make the next job available that was enqueued while the ended one was unfinished."""
        for cron in self._crons.values():
            if ended in cron.jobs:
                first = next(iter(_unfinished(cron)), None)
                if first is not None:
                    self._jobs.release(first)

    def _fire(self, cron: FakeCron, due_ms: int, reason: str) -> tuple[FakeJob, bool]:
        options = cron.template.get("options") or {}
        meta = {**(options.get("meta") or {}), **(cron.template.get("meta") or {})}
        meta |= {"cron_name": cron.name, "cron_triggered_at": iso(due_ms)}
        unfinished = _unfinished(cron)
        if cron.overlap == "cancel_previous":
            for job in unfinished:
                self._jobs.cancel(job.id)
        pending = cron.overlap == "enqueue" and bool(unfinished)
        request = {**cron.template, "meta": meta}
        [(job, deduplicated)] = self._jobs.enqueue([request], pending=pending)
        cron.count += 1
        cron.last_ms = self._jobs.now_ms
        cron.jobs = [*_unfinished(cron), job]
        self._record(cron, due_ms, "triggered", reason, {"job_id": job.id})
        return job, deduplicated

    def _record(
        self, cron: FakeCron, due_ms: int, outcome: str, reason: str, detail: dict[str, Any]
    ) -> None:
        due, now = iso(due_ms), iso(self._jobs.now_ms)
        entry = {
            "outcome": outcome,
            "reason": reason,
            "scheduled_time": due,
            "actual_time": now,
            "state": outcome,
            "scheduled_at": due,
            **({"started_at": now} if outcome == "triggered" else {}),
            **detail,
        }
        cron.history = [entry, *cron.history][:_HISTORY_KEPT]


def _when(cron: FakeCron) -> tuple[str, str, bool]:
    return cron.schedule.expression, cron.schedule.timezone, cron.enabled


def _unfinished(cron: FakeCron) -> list[FakeJob]:
    return [job for job in cron.jobs if not job.ended]
