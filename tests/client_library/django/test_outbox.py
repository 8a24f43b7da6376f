"""Tasks go through the outbox of a PostgreSQL database."""

from __future__ import annotations

import json
import signal
from typing import Any

import psycopg
from django.core.checks import run_checks
from django.test import override_settings

from ojs_client import SyncClient
from tests.client_library.django.conftest import manage
from tests.support.postgres import database, postgres_server  # noqa: F401 - fixtures
from tests.support.servers import wait_until

ENQUEUE = """
import json, os
from contextlib import suppress
from django.core.checks import run_checks
from django.db import transaction
from django.tasks.signals import task_enqueued
from tests.client_library.django.project.shop.tasks import echo

def tell(task_result, **kwargs):
    told.append(task_result.id)

assert run_checks() == []
task_enqueued.connect(tell)
echo, told = echo.using(backend="outbox"), []
with suppress(KeyError), transaction.atomic("orders"):
    echo.enqueue("lost")
    raise KeyError
alone = echo.enqueue("alone")
assert told == [alone.id]
with transaction.atomic("orders"):
    kept = echo.enqueue("kept")
    assert told == [alone.id]
assert told == [alone.id, kept.id]
with transaction.atomic("orders"):
    crashed = echo.enqueue("crashed")
    print(json.dumps([alone.id, kept.id, crashed.id]), flush=True)
    transaction.on_commit(lambda: os._exit(7), "orders")
    transaction.get_connection("orders").run_on_commit.reverse()  # the crash comes first
"""


def test_a_task_survives_a_crash_after_the_commit(
    project: dict[str, str],
    database: str,  # noqa: F811 - the fixture
) -> None:
    env = {**project, "SHOP_POSTGRES": database}
    assert run(env, "migrate", "--database", "orders")[0] == 0
    code, lines = run(env, "shell", "--no-imports", "-c", ENQUEUE)
    assert code == 7, lines
    ids = json.loads(lines[-1])
    code, lines = run(env, "ojs_outbox", "--alias", "outbox", "status")
    assert code == 0
    assert lines[-2].startswith("3 waiting")
    with (
        manage(env, "ojs_outbox", "--alias", "outbox", "relay") as relay,
        manage(env, "ojs_worker", "--concurrency", "1"),
        SyncClient(project["SHOP_OJS_URL"]) as client,
    ):
        wait_for_empty(database)
        values = [client.result(job_id, wait=120) for job_id in ids]
        relay.signal(signal.SIGTERM)
        assert relay.wait_exit() == 0
    assert values == ["alone", "kept", "crashed"]
    assert run(env, "ojs_outbox", "status")[0] == 1  # the default backend has no outbox
    assert run(env, "migrate", "ojs_outbox", "zero", "--database", "orders")[0] == 0


def run(env: dict[str, str], *arguments: str) -> tuple[int, list[str]]:
    """Run a command of the project; return its exit code and its lines."""
    with manage(env, *arguments) as command:
        code = command.wait_exit()
    return code, command.output.splitlines()


def wait_for_empty(address: str) -> None:
    """Wait until the outbox is empty."""

    def is_empty() -> bool:
        with psycopg.connect(address) as connection:
            return connection.execute("SELECT count(*) FROM ojs_outbox").fetchone() == (0,)

    wait_until(is_empty, timeout_s=120, what="the outbox is empty")


def test_the_check_finds_databases_without_an_outbox(tasks: Any) -> None:
    backend = {"BACKEND": "ojs_client.django.Backend", "QUEUES": []}
    found = {
        "default": {**backend, "OPTIONS": {"outbox": True}},
        "second": {**backend, "OPTIONS": {"outbox": "nowhere"}},
    }
    with override_settings(TASKS=found):
        text = "\n".join(f"{each.id} {each.msg}" for each in run_checks())
    assert "TASKS['default']: the outbox needs PostgreSQL, which 'default' is not." in text
    assert "'nowhere'" in text
    assert text.count("ojs.E001") == 2
