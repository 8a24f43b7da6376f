"""Each kind of connection writes in the transaction of the application, and nowhere else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import anyio
import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from ojs_client import App, new_job, new_job_id
from ojs_client.outbox import enqueue, once
from tests.client_library.outbox.conftest import waiting

INSERT = "INSERT INTO orders VALUES (1)"
Scenario = Callable[[str], list[bool]]
"""Rolls back a transaction and a savepoint, commits the rest; returns the results of ``once``."""


class Abandoned(Exception):
    pass


def alchemy(url: str) -> str:
    return url.replace("postgresql:", "postgresql+psycopg:")


def with_psycopg(url: str) -> list[bool]:
    with psycopg.connect(url) as connection:
        with suppress(Abandoned), connection.transaction():
            connection.execute(INSERT)
            enqueue(connection, "order.lost", 1)
            raise Abandoned
        with connection.transaction():
            connection.execute(INSERT)
            enqueue(connection, "order.kept", 1)
            with suppress(Abandoned), connection.transaction():
                enqueue(connection, "order.lost", 2)
                raise Abandoned
            enqueue(connection, new_job("order.kept", 2))
        return [once(connection, "a"), once(connection, "a")]


def with_async_psycopg(url: str) -> list[bool]:
    async def run() -> list[bool]:
        async with await psycopg.AsyncConnection.connect(url) as connection:
            with suppress(Abandoned):
                async with connection.transaction():
                    await enqueue(connection, "order.lost", 1)
                    raise Abandoned
            async with connection.transaction():
                await connection.execute(INSERT)
                await enqueue(connection, "order.kept", 1)
                with suppress(Abandoned):
                    async with connection.transaction():
                        await enqueue(connection, "order.lost", 2)
                        raise Abandoned
                await enqueue(connection, new_job("order.kept", 2))
            return [await once(connection, "a"), await once(connection, "a")]

    return anyio.run(run)


def _sync_alchemy(connection: Session | sqlalchemy.Connection) -> list[bool]:
    enqueue(connection, "order.lost", 1)
    connection.rollback()
    connection.execute(sqlalchemy.text(INSERT))
    enqueue(connection, "order.kept", 1)
    with suppress(Abandoned), connection.begin_nested():
        enqueue(connection, "order.lost", 2)
        raise Abandoned
    enqueue(connection, new_job("order.kept", 2))
    found = [once(connection, "a"), once(connection, "a")]
    connection.commit()
    return found


def with_connection(url: str) -> list[bool]:
    engine = sqlalchemy.create_engine(alchemy(url))
    with engine.connect() as connection:
        found = _sync_alchemy(connection)
    engine.dispose()
    return found


def with_session(url: str) -> list[bool]:
    engine = sqlalchemy.create_engine(alchemy(url))
    with Session(engine) as session:
        found = _sync_alchemy(session)
    engine.dispose()
    return found


async def _async_alchemy(connection: AsyncSession | AsyncConnection) -> list[bool]:
    await enqueue(connection, "order.lost", 1)
    await connection.rollback()
    await connection.execute(sqlalchemy.text(INSERT))
    await enqueue(connection, "order.kept", 1)
    with suppress(Abandoned):
        async with connection.begin_nested():
            await enqueue(connection, "order.lost", 2)
            raise Abandoned
    await enqueue(connection, new_job("order.kept", 2))
    found = [await once(connection, "a"), await once(connection, "a")]
    await connection.commit()
    return found


def with_async_connection(url: str) -> list[bool]:
    async def run() -> list[bool]:
        engine = create_async_engine(alchemy(url))
        async with engine.connect() as connection:
            found = await _async_alchemy(connection)
        await engine.dispose()
        return found

    return anyio.run(run)


def with_async_session(url: str) -> list[bool]:
    async def run() -> list[bool]:
        engine = create_async_engine(alchemy(url))
        async with AsyncSession(engine) as session:
            found = await _async_alchemy(session)
        await engine.dispose()
        return found

    return anyio.run(run)


DJANGO = """
import json, sys
from urllib.parse import urlsplit
from django.conf import settings
url = urlsplit(sys.argv[1])
settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": url.path[1:], "USER": url.username,
    "HOST": url.hostname, "PORT": url.port}})
from django.db import connection, transaction
from ojs_client import new_job
from ojs_client.outbox import enqueue, once

def abandoned(number):
    try:
        with transaction.atomic():
            enqueue(connection, "order.lost", number)
            raise KeyError
    except KeyError:
        pass

abandoned(1)
with transaction.atomic():
    connection.cursor().execute("INSERT INTO orders VALUES (1)")
    enqueue(connection, "order.kept", 1)
    abandoned(2)
    enqueue(connection, new_job("order.kept", 2))
try:
    once(connection, "a")
except RuntimeError:
    with transaction.atomic():
        print(json.dumps([once(connection, "a"), once(connection, "a")]))
"""


def with_django(url: str) -> list[bool]:
    pytest.importorskip("django", reason="Django needs Python 3.12")
    command = [sys.executable, "-c", DJANGO, url]  # settings are those of a whole process
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[bool] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "scenario",
    [
        with_psycopg,
        with_async_psycopg,
        with_connection,
        with_session,
        with_async_connection,
        with_async_session,
        with_django,
    ],
)
def test_only_jobs_of_the_outermost_commit_are_in_the_outbox(
    tables: str, scenario: Scenario
) -> None:
    assert scenario(tables) == [True, False]
    jobs = [json.loads(job) for job in waiting(tables)]
    assert [(job["type"], job["args"]) for job in jobs] == [
        ("order.kept", [1]),
        ("order.kept", [2]),
    ]
    with psycopg.connect(tables) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (1,)


def test_a_typed_task_goes_through_the_outbox_with_its_options(tables: str) -> None:
    app = App()

    @app.task(name="mail.send", queue="mails", priority=3)
    async def send(to: str, at: datetime) -> None: ...

    at, job_id = datetime(2026, 1, 2, tzinfo=UTC), new_job_id()
    changed = send.with_options(priority=7, job_id=job_id)
    with psycopg.connect(tables) as connection:
        assert enqueue(connection, changed.new_job(to="a@example.com", at=at)) == job_id
    (job,) = map(json.loads, waiting(tables))
    assert job == {
        "id": job_id,
        "type": "mail.send",
        "args": [{"to": "a@example.com", "at": "2026-01-02T00:00:00Z"}],
        "options": {"queue": "mails", "priority": 7},
    }


def test_times_count_from_the_enqueue_and_not_from_the_relay(tables: str) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    with psycopg.connect(tables) as connection:
        enqueue(connection, "order.check", delay="1h", expires="2h")
    (job,) = map(json.loads, waiting(tables))
    for name, hours in (("scheduled_at", 1), ("expires_at", 2)):
        time = datetime.fromisoformat(job["options"][name]) - timedelta(hours=hours)
        assert before <= time <= datetime.now(UTC)


def test_a_wrong_job_writes_nothing(tables: str) -> None:
    with psycopg.connect(tables) as connection:
        with pytest.raises(TypeError, match="no option"):
            enqueue(connection, "order.check", quue="a")  # type: ignore[call-overload]
        with pytest.raises(TypeError):
            enqueue(connection, "order.check", object())  # type: ignore[call-overload]
        with pytest.raises(ValueError, match="either delay"):
            enqueue(connection, "order.check", delay=1, scheduled_at=datetime.now(UTC))
        connection.execute("SELECT 1")  # the transaction is not broken
    assert waiting(tables) == []


def test_once_is_free_again_after_a_rollback(tables: str) -> None:
    with psycopg.connect(tables) as connection:
        assert once(connection, "a")
        connection.rollback()
        assert once(connection, "a")


def test_once_is_refused_where_it_would_be_committed_at_once(tables: str) -> None:
    with psycopg.connect(tables, autocommit=True) as connection:
        with pytest.raises(RuntimeError, match="without a transaction"):
            once(connection, "a")
        with connection.transaction():
            assert once(connection, "a")
