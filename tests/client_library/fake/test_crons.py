"""Cron jobs of the fake server work as those of a server do."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import pytest
import trio

from ojs_client import ApiError, Client, NotFound, RunningJob, Worker, new_job
from ojs_client.testing import FakeServer
from tests.client_library.fake.worlds import Play, World

NEVER_SOON = "0 0 1 1 *"
"""An expression that is not due during a test."""
TIMES = ("created_at", "updated_at", "last_run_at", "next_run_at")


async def test_a_cron_job_is_registered_changed_and_deleted(
    play_scheduled: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(world: World) -> None:
        crons = world.client.cron
        first = await crons.register(
            "t-yearly", NEVER_SOON, new_job("t.report", 1, queue="crons"), description="all numbers"
        )
        assert (first.name, first.timezone, first.enabled) == ("t-yearly", "UTC", True)
        assert first.next_run_at is not None
        assert (first.next_run_at.month, first.next_run_at.day) == (1, 1)
        again = await crons.register("t-yearly", NEVER_SOON, new_job("t.report", 2, queue="crons"))
        assert (again.members["args"], again.next_run_at) == ([2], first.next_run_at)
        changed = await crons.change("t-yearly", expression="@hourly", args=[3])
        assert (changed.expression, changed.members["args"]) == ("@hourly", [3])
        paused = await crons.pause("t-yearly")
        assert (paused.enabled, paused.next_run_at) == (False, None)
        assert (await crons.resume("t-yearly")).next_run_at is not None
        await crons.register("t-zone", "@daily", new_job("t.x"), timezone="Asia/Tokyo")
        assert [cron.name for cron in await crons.list_all()] == ["t-yearly", "t-zone"]
        monkeypatch.setattr("ojs_client.paging._PAGE", 1)
        assert [cron.name for cron in await crons.list_all()] == ["t-yearly", "t-zone"]
        for name in ("t-yearly", "t-zone"):
            await crons.delete(name)
        assert await crons.list_all() == []
        for call in (crons.get, crons.pause, crons.trigger, crons.history, crons.delete):
            with pytest.raises(NotFound):
                await call("t-yearly")

    await play_scheduled(scenario)


async def test_a_triggered_cron_job_enqueues_its_job(play_scheduled: Play) -> None:
    worker = Worker(queues=["crons-trigger"])

    @worker.handler("t.report")
    async def report(job: RunningJob) -> Any:
        return [job.args, job.meta["cron_name"], job.meta["team"]]

    async def scenario(world: World) -> None:
        crons = world.client.cron
        job = new_job("t.report", 7, queue="crons-trigger", meta={"team": "a"})
        await crons.register("t-trigger", NEVER_SOON, job)
        async with world.running(worker):
            run = await crons.trigger("t-trigger")
            assert await world.client.result(run.id, wait=60) == [[7], "t-trigger", "a"]
        [entry] = await crons.history("t-trigger")
        assert (entry["outcome"], entry["reason"], entry["job_id"]) == (
            *("triggered", "manual"),
            run.id,
        )
        found = await crons.get("t-trigger")
        assert (found.members["run_count"], found.enabled) == (1, True)
        await crons.delete("t-trigger")

    await play_scheduled(scenario)


@pytest.mark.parametrize(
    ("overlap", "states", "outcomes"),
    [
        ("skip", ["available"], ["triggered", "skipped"]),
        ("allow", ["available", "available"], ["triggered", "triggered"]),
        ("cancel_previous", ["cancelled", "available"], ["triggered", "triggered"]),
        ("enqueue", ["available", "pending"], ["triggered", "triggered"]),
    ],
)
async def test_an_occurrence_with_an_unfinished_job_does_what_its_policy_says(
    play_scheduled: Play, overlap: Any, states: list[str], outcomes: list[str]
) -> None:
    async def scenario(world: World) -> None:
        client, name = world.client, f"t-{overlap}".replace("_", "-")
        queue = f"crons-{overlap}".replace("_", "-")
        await client.cron.register(
            name, "@every 1s", new_job("t.report", queue=queue), overlap=overlap
        )
        if world.fake is not None:
            await world.fake.advance(2.5)
        while len(await client.cron.history(name)) < 2:  # noqa: ASYNC110 - a server's time
            await anyio.sleep(0.05)
        await client.cron.pause(name)
        # A server may have had a third occurrence meanwhile. The newest entry is the first one.
        history = await client.cron.history(name)
        entries = history[:-3:-1]
        assert [entry["outcome"] for entry in entries] == outcomes
        ids = [entry["job_id"] for entry in entries if "job_id" in entry]
        shown = [await _state_of_run(client, id) for id in ids]
        if overlap == "cancel_previous" and len(history) > 2:
            assert shown == ["cancelled", "cancelled"]
        else:
            assert shown == states
        if overlap == "enqueue":
            await client.cancel(ids[0])
            with anyio.fail_after(60):
                while (await client.get(ids[1])).state != "available":  # noqa: ASYNC110
                    await anyio.sleep(0.05)
        await client.cron.delete(name)

    await play_scheduled(scenario)


async def _state_of_run(client: Client, job_id: str) -> str:
    """Return the state of a run. The history has it before its job is stored."""
    with anyio.fail_after(60):
        while True:
            with suppress(NotFound):
                return (await client.get(job_id)).state
            await anyio.sleep(0.05)


async def test_invalid_cron_jobs_are_refused(play_scheduled: Play) -> None:
    async def scenario(world: World) -> None:
        register, job = world.client.cron.register, new_job("t.x")
        for call in (
            partial(register, "No", "@daily", job),
            partial(register, "t-no", "61 * * * *", job),
            partial(register, "t-no", "* * *", job),
            partial(register, "t-no", "0 0 30 2 *", job),
            partial(register, "t-no", "@every 10ms", job),
            partial(register, "t-no", "@daily", job, timezone="CET"),
            partial(register, "t-no", "@daily", job, overlap="twice"),  # type: ignore[arg-type]
            partial(register, "t-no", "@daily", new_job("T.upper")),
        ):
            with pytest.raises(ApiError) as caught:
                await call()
            assert (caught.value.status, caught.value.code) == (400, "invalid_request")

    await play_scheduled(scenario)


EXPRESSIONS = (
    *("*/7 3-5 * * *", "0 0 1,15 * mon", "5/20 22-2 * * *", "30 4 ? jan-mar sun", "0 12 l * *"),
    *("0 12 15w * *", "0 12 1w * *", "0 9 lw * *", "0 9 * * 5#3", "0 9 * * fril", "0 0 29 2 *"),
    *("*/30 * * * * *", "@weekly", "@every 90m", "0 0 * * 5-7", "30 2 * * *"),
)


async def test_expressions_mean_the_same(scheduling_url: str) -> None:
    """Both have clocks of their own. If a time has passed between two calls, they are repeated."""

    async def both() -> None:
        fake = FakeServer()
        async with Client(scheduling_url) as real, fake.client() as faked:
            for number, expression in enumerate(EXPRESSIONS):
                for zone in ("UTC", "America/New_York"):
                    job, name = new_job("t.x"), f"t-{number}"
                    for _ in range(20):
                        shown = await real.cron.register(
                            name, expression, job, timezone=zone, enabled=True
                        )
                        moved = datetime.now(UTC) - fake.now
                        await fake.advance(max(moved, timedelta(0)))
                        computed = await faked.cron.register(name, expression, job, timezone=zone)
                        assert shown.next_run_at is not None
                        assert computed.next_run_at is not None
                        apart = abs((shown.next_run_at - computed.next_run_at).total_seconds())
                        if apart < (5 if expression.startswith("@every") else 0.001):
                            break
                        await real.cron.delete(name)
                        await faked.cron.delete(name)
                    else:
                        raise AssertionError((expression, zone, shown, computed))
                    await real.cron.delete(name)
                    await faked.cron.delete(name)

    await trio.to_thread.run_sync(partial(anyio.run, both))


@pytest.mark.parametrize(
    ("start", "expression", "expected"),
    [
        (datetime(2030, 3, 9, 12), "30 2 * * *", ["2030-03-11T06:30", "2030-03-12T06:30"]),
        (datetime(2030, 11, 2, 12), "30 1 * * *", ["2030-11-03T05:30", "2030-11-04T06:30"]),
    ],
)
def test_local_times_that_the_clock_skips_or_repeats(
    start: datetime, expression: str, expected: list[str]
) -> None:
    """On 10 March the clock does not show 02:30. On 3 November it shows 01:30 twice."""

    async def test() -> None:
        server, due = FakeServer(now=start.replace(tzinfo=UTC)), list[str]()
        async with server.client() as client:
            cron = await client.cron.register(
                "t-night", expression, new_job("t.x"), timezone="America/New_York", overlap="allow"
            )
            while len(due) < len(expected):
                assert cron.next_run_at is not None
                due.append(cron.next_run_at.isoformat()[:16])
                await server.advance(cron.next_run_at - server.now)
                cron = await client.cron.get("t-night")
        assert due == expected

    anyio.run(test)


def test_a_cron_job_says_which_package_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "croniter", None)

    async def test() -> None:
        async with FakeServer().client() as client:
            await client.enqueue("t.x")
            with pytest.raises(RuntimeError, match=r"ojs-client\[testing\]"):
                await client.cron.register("t-daily", "@daily", new_job("t.x"))

    anyio.run(test)


def test_a_cron_job_runs_at_each_of_its_times() -> None:
    async def test() -> None:
        server = FakeServer(now=datetime(2030, 1, 1, 8, tzinfo=UTC))
        worker, ran = Worker(queues=["a"]), list[str]()

        @worker.handler("t.report")
        async def report(job: RunningJob) -> None:
            ran.append(job.meta["cron_triggered_at"])

        async with server.client() as client, server.running(worker):
            await client.cron.register("daily", "0 9 * * *", new_job("t.report", queue="a"))
            await server.advance(timedelta(days=3))
        assert ran == [f"2030-01-0{day}T09:00:00.000Z" for day in (1, 2, 3)]

    anyio.run(test)
