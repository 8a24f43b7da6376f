"""One run: a mixed load, faults from a seed, rest, and the result of the checker."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
import trio

from tests.chaos.checker import check
from tests.chaos.client import V1, ChaosClient
from tests.chaos.faults import FaultInjector, Journal
from tests.chaos.finish import come_to_rest
from tests.chaos.history import History, NewJob, Violation
from tests.chaos.installation import HEALING_S, Installation, Variant
from tests.chaos.listeners import listening, settle
from tests.chaos.producers import (
    CANCELLING_CRON,
    CRON,
    CRONS,
    KEYS,
    LIMITED,
    ORDERED,
    QUEUE_LIMIT,
    SPREAD,
    STEPS_OF_A_LOAD,
    Known,
    Producer,
)
from tests.chaos.replay import by_job
from tests.chaos.schedule import Fault, schedule
from tests.chaos.workers import Crew

_PATIENCE_S: Final = 300.0
"""How long a client that prepares or ends a run waits for a response, in seconds."""
_HISTORIES_SHOWN: Final = 5
_SHOWN: Final = 20
_UNREAD: Final = "events of this process are not delivered to webhooks"
"""In the log of a process that began while the webhooks could not be read (ADR 41)."""


@dataclass(frozen=True, slots=True)
class Run:
    """The parameters and result of one run, for its report."""

    variant: Variant
    seed: int
    seconds: float
    faults: Sequence[Fault]
    journal: Journal
    history: History
    violations: Sequence[Violation]

    @property
    def unexcused(self) -> Sequence[Violation]:
        """Return the violations that nothing excuses."""
        return [violation for violation in self.violations if not violation.excused]

    def summary(self) -> str:
        """Return one line about the run."""
        history, final = self.history, self.history.final
        counts = Counter(final.states.values())
        excused = Counter(it.rule for it in self.violations if it.excused)
        return (
            f"chaos {self.variant.name}, seed {self.seed}: {self.journal.faults} faults in "
            f"{self.seconds:.0f} s; {len(history.enqueues)} enqueues, "
            f"{len(history.leases)} leases, {len(history.settles)} ends, "
            f"{len(history.workflows)} workflows, {len(history.events)} events, {self._told()}; "
            f"jobs in the end: {dict(counts)}; excused: {dict(excused)}; "
            f"violations: {len(self.unexcused)}"
        )

    def _told(self) -> str:
        hooked, streamed = self.history.hooked, self.history.streamed
        if hooked is None or streamed is None:
            return "no listeners"
        return (
            f"{len(hooked.received)} by webhook, {streamed.seen.total()} by stream with "
            f"{len(streamed.gaps)} gaps"
        )

    def failure(self, logs: str, history: Path, all_logs: Path) -> str:
        """Return the message of a failed test.

        CI output may be truncated at either end, so the violations are at both ends.

        Args:
            logs: the last lines of all logs.
            history: the file with the whole history.
            all_logs: the file with all logs.
        """
        return "\n".join(
            [
                self._wrong(),
                *(f"history: {history}", f"logs: {all_logs}, which end with:", logs),
                *("faults, as they really happened:", *sorted(self.journal.lines)),
                *self._histories(),
                *(f"history: {history}", f"logs: {all_logs}", self._wrong()),
            ]
        )

    def _wrong(self) -> str:
        lines = [
            self.summary(),
            f"again: OJS_CHAOS_SECONDS={self.seconds / self.variant.share:.0f} "
            f"pytest tests/chaos --chaos-seed={self.seed} -k {self.variant.name}",
            *("violations:", *(f"  {violation}" for violation in self.unexcused[:_SHOWN])),
        ]
        return "\n".join(lines)

    def _histories(self) -> list[str]:
        lines: list[str] = []
        for subject in list(dict.fromkeys(it.subject for it in self.unexcused))[:_HISTORIES_SHOWN]:
            lines += [f"history of {subject}:", *history_of(self.history, subject)]
        return lines


async def run(installation: Installation, variant: Variant, seed: int, seconds: float) -> Run:
    """Run load and faults for a time, then let the installation come to rest."""
    faults = schedule(seed, seconds, variant.tracks)
    history = History(
        limits={("queue", LIMITED): QUEUE_LIMIT, **{("key", k): n for k, n in KEYS.items()}},
        ordered=frozenset({ORDERED}),
        confirmed=variant.confirmed,
        patient=variant.confirmed or variant.patience_s >= HEALING_S,
    )
    urls = [node.url for node in installation.nodes]
    limits = httpx.Limits(max_connections=256)
    async with httpx.AsyncClient(timeout=20, limits=limits) as http:

        def client(name: str, patience_s: float = 60) -> ChaosClient:
            chance = random.Random(f"{seed} {name}")
            return ChaosClient(http, urls, history, chance, patience_s)

        crew = Crew(client)
        striker = FaultInjector(installation, history, crew.kill)
        setup = client("setup", _PATIENCE_S)
        await _prepare(setup)
        async with listening(seed, http, urls, setup), trio.open_nursery() as working:
            working.start_soon(crew.run)
            known = Known()
            async with trio.open_nursery() as producing:
                for name, step, pause_s in STEPS_OF_A_LOAD:
                    producer = Producer(client(name), known)
                    producing.start_soon(producer.run, step, pause_s)
                await striker.run(faults)
                await trio.sleep_until(striker.journal.start + seconds)
                await striker.whole()
                crew.calm = True
                known.stop.set()
            history.final = await come_to_rest(
                client("rest", _PATIENCE_S), installation.backend, variant.patience_s
            )
            crew.stop.set()
            if history.hooked is not None and installation.has_logged(_UNREAD):
                history.hooked = replace(history.hooked, excuse="a process began without it")
            await settle(history)
    return Run(variant, seed, seconds, faults, striker.journal, history, check(history))


async def _prepare(client: ChaosClient) -> None:
    path = f"{V1}/admin/queues/{LIMITED}/rate-limit"
    assert (await client.insist("PUT", path, {"concurrency": QUEUE_LIMIT})).done
    path = f"{V1}/admin/queues/{SPREAD}/config"
    assert (await client.insist("PUT", path, {"partitions": 4})).done
    for overlap, expression in {**CRONS, CANCELLING_CRON: "@every 3s"}.items():
        body = {
            "name": f"chaos-{overlap}".replace("_", "-"),
            "expression": expression,
            "overlap_policy": overlap,
            "type": "chaos.cron",
            "options": {"queue": CRON},
        }
        told = await client.insist("POST", f"{V1}/cron", body)
        assert told.done, told.body


def history_of(history: History, subject: str) -> list[str]:
    """Return what is known of a job, a workflow or a fingerprint, in its order."""
    about: list[tuple[float, object]] = []
    for records, names in (
        (history.enqueues, lambda it: {name for job in it.jobs for name in _names(job)}),
        (history.leases, lambda it: {it.job, *(it.step or ())[:1], *(it.occurrence or ())[:1]}),
        (history.settles, lambda it: {it.job}),
        (history.commands, lambda it: {it.subject}),
        (history.seen, lambda it: {it.job}),
        (history.workflows, lambda it: {it.id, it.tag}),
    ):
        listed: Sequence[Any] = records
        about += [(it.answer.sent, it) for it in listed if subject in names(it)]
    about.sort(key=lambda pair: pair[0])
    shown = [f"  {it}" for _, it in about]
    shown += [f"  {event}" for event in by_job(history.events).get(subject, ())]
    return [*shown[-80:], f"  in the end: {history.final.states.get(subject, 'not there')}"]


def _names(job: NewJob) -> tuple[str, ...]:
    return (job.id, job.fingerprint, job.key)
