"""One run: a mixed load, faults from a seed, rest, and the result of the checker."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import httpx
import trio

from ojs_cluster.store.ground.versioned_table import REFRESH_S
from tests.chaos.bounded_load import STEPS_OF_BOUNDED_LOAD, BoundedProducer
from tests.chaos.checker import examine
from tests.chaos.client import JSON, V1, ChaosClient
from tests.chaos.faults import FaultInjector
from tests.chaos.finish import come_to_rest
from tests.chaos.history import History
from tests.chaos.installation import HEALING_S, Installation, Variant
from tests.chaos.listeners import listening, settle
from tests.chaos.names import (
    BOUND,
    BOUNDED,
    BOUNDS,
    CANCELLING_CRON,
    CRON,
    CRONS,
    CROWDED,
    HASTY,
    LIMITED,
    ORDERED,
    QUEUE_LIMIT,
    RATE,
    RATED,
    SPREAD,
    SWITCHED,
    TENANT_DEPTH,
    TENANT_RATE,
)
from tests.chaos.operators import Operator
from tests.chaos.producers import STEPS_OF_A_LOAD, Known, Producer
from tests.chaos.report import Run
from tests.chaos.schedule import schedule
from tests.chaos.workers import Crew

_PATIENCE_S: Final = 300.0
"""How long a client that prepares or ends a run waits for a response, in seconds."""
_OPERATES_EVERY_S: Final = 0.5
_SWITCHES_EVERY_S: Final = 1.0
_UNREAD: Final = "events of this process are not delivered to webhooks"
"""In the log of a process that began while the webhooks could not be read (ADR 41)."""


async def run(installation: Installation, variant: Variant, seed: int, seconds: float) -> Run:
    """Run load and faults for a time, then let the installation come to rest."""
    faults = schedule(seed, seconds, variant.tracks)
    history = History(
        bounds=BOUNDS,
        unix_ms=time.time() * 1000 - trio.current_time() * 1000,
        ordered=frozenset({ORDERED}),
        confirmed=variant.confirmed,
        patient=variant.patience_s >= HEALING_S,
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
                for name, bounded_step, pause_s in STEPS_OF_BOUNDED_LOAD:
                    bounded = BoundedProducer(client(name), known)
                    producing.start_soon(bounded.run, bounded_step, pause_s)
                for name in ("operator-0", "operator-1"):
                    operator = Operator(client(name), known)
                    producing.start_soon(operator.run, Operator.operate, _OPERATES_EVERY_S)
                for queue in SWITCHED:
                    switcher = Operator(client(f"switcher of {queue}"), known, queue)
                    producing.start_soon(switcher.run, Operator.switch, _SWITCHES_EVERY_S)
                await striker.run(faults, seconds)
                await trio.sleep_until(striker.journal.start + seconds)
                await striker.whole()
                crew.calm = True
                known.stop.set()
            history.final = await come_to_rest(
                client("rest", _PATIENCE_S),
                installation.backend,
                variant.patience_s,
                known.requests,
            )
            crew.stop.set()
            if history.hooked is not None and installation.has_logged(_UNREAD):
                history.hooked = replace(history.hooked, excuse="a process began without it")
            await settle(history)
    return Run(variant, seed, seconds, faults, striker.journal, history, list(examine(history)))


async def _prepare(client: ChaosClient) -> None:
    tenant, rate = f"{V1}/admin/tenants", {"limit": RATE.limit, "period": f"PT{RATE.seconds:g}S"}
    of_tenant = {"limit": TENANT_RATE.limit, "period": f"PT{TENANT_RATE.seconds:g}S"}
    settings: Sequence[tuple[str, JSON]] = (
        (f"{V1}/admin/queues/{LIMITED}/rate-limit", {"concurrency": QUEUE_LIMIT}),
        (f"{V1}/admin/queues/{RATED}/rate-limit", {"rate": rate}),
        (f"{V1}/admin/queues/{SPREAD}/config", {"partitions": 4}),
        (f"{V1}/queues/{BOUNDED}", {"config": {"max_size": BOUND}}),
        (f"{tenant}/{CROWDED}/limits", {"max_queue_depth": TENANT_DEPTH}),
        (f"{tenant}/{HASTY}/limits", {"max_enqueue_rate": of_tenant}),
    )
    for path, body in settings:
        told = await client.insist("PUT", path, body)
        assert told.done, told.body
    await trio.sleep(2 * REFRESH_S)  # then every process knows the limits of the tenants
    for overlap, expression in {**CRONS, CANCELLING_CRON: "@every 3s"}.items():
        cron = {
            "name": f"chaos-{overlap}".replace("_", "-"),
            "expression": expression,
            "overlap_policy": overlap,
            "type": "chaos.cron",
            "options": {"queue": CRON},
        }
        told = await client.insist("POST", f"{V1}/cron", cron)
        assert told.done, told.body
