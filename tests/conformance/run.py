"""One suite file against one server: the body of every conformance test."""

from __future__ import annotations

import os
from collections.abc import Callable

import httpx
import trio

from tests.conformance import scope
from tests.conformance.dsl.case import Case
from tests.conformance.dsl.runner import CaseFailed, run_case
from tests.support.second_tries import NAME

TIMEOUT_S = 60

Note = Callable[[str, object], None]
"""Pytest's `record_property`."""


def run_suite(target: str, case: Case, note: Note) -> None:
    """Not async itself: pytest-trio would hide the failure that xfail looks for in a group."""
    trio.run(_connect_and_run, target, case, note)


async def _connect_and_run(target: str, case: Case, note: Note) -> None:
    key = os.environ.get("OJS_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(base_url=target, timeout=TIMEOUT_S, headers=headers) as client:
        await run_fresh(case, client, note)


async def run_fresh(case: Case, client: httpx.AsyncClient, note: Note) -> None:
    """Run a case on an empty server, and once more when what failed came after a delay.

    The suites' delays leave the server 200 ms, less what this process and the proxy wake up late:
    on a busy machine that is no statement about the server, twice in a row it is. A second try is
    noted, and told at the end of the test run. A case that did not wait has one try only.
    """
    try:
        await _reset_and_run(case, client)
    except CaseFailed as failed:
        if not failed.after_delay or case.file in scope.IMPOSSIBLE:
            raise
        note(NAME, str(failed))
        await _reset_and_run(case, client)


async def _reset_and_run(case: Case, client: httpx.AsyncClient) -> None:
    """The suites share queue names, job ids and counters, so each starts with an empty server."""
    reset = await client.post("/ojs/v1/admin/reset")
    assert reset.status_code == 200, "is the server run with OJS_TEST_HOOKS=true?"
    await run_case(case, client)
