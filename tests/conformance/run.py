"""Run one suite file against one server: the body of every conformance test."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import httpx
import trio

from tests.conformance import scope
from tests.conformance.dsl.case import Case
from tests.conformance.dsl.runner import CaseFailed, run_case
from tests.support.second_tries import NAME

TIMEOUT_S = 60
TRIES: Final = 5
LATE_S: Final = 0.05
"""If a step takes longer than this beside its delay, the machine is considered busy."""

Note = Callable[[str, object], None]
"""The `record_property` fixture of pytest."""


def run_suite(target: str, case: Case, note: Note) -> None:
    """A synchronous function, because pytest-trio would wrap the failure that xfail expects in a
    group.
    """
    trio.run(_connect_and_run, target, case, note)


async def _connect_and_run(target: str, case: Case, note: Note) -> None:
    key = os.environ.get("OJS_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(base_url=target, timeout=TIMEOUT_S, headers=headers) as client:
        # The official runner sends the Accept of a case and no other; httpx would add "*/*".
        del client.headers["Accept"]
        await run_fresh(case, client, note)


async def run_fresh(case: Case, client: httpx.AsyncClient, note: Note) -> None:
    """Run a case on an empty server, and repeat it if a failure may be caused by a busy machine.

    The delays of the suites leave the server 200 ms, and some steps have to follow others within a
    second. On a busy machine a failure of such a case proves nothing about the server. So a case
    that fails after a delay is repeated once, and a timed case while its steps are late, at most
    ``TRIES`` times. Each repetition is recorded and reported at the end of the test run. All other
    cases run only once.
    """
    for number in range(1, TRIES + 1):
        try:
            await _reset_and_run(case, client)
        except CaseFailed as failed:
            late = case.is_timed and failed.late_s > LATE_S
            again = late or (failed.after_delay and number == 1)
            if not again or number == TRIES or case.file in scope.IMPOSSIBLE:
                raise
            note(NAME, f"late by {failed.late_s:.3f} s: {failed}")
        else:
            return


async def _reset_and_run(case: Case, client: httpx.AsyncClient) -> None:
    """The suites share queue names, job ids and counters, so each starts with an empty server."""
    reset = await client.post("/ojs/v1/admin/reset")
    assert reset.status_code == 200, "is the server run with OJS_TEST_HOOKS=true?"
    await run_case(case, client)
