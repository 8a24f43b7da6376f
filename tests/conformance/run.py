"""One suite file against one server: the body of every conformance test."""

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
"""A step that takes longer than this, besides its delay, was run on a machine that is busy."""

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
    """Run a case on an empty server, and again when a failure may tell of the machine.

    The suites' delays leave the server 200 ms, less what this process and the proxy wake up late,
    and some steps have to follow others within a second. On a busy machine a failure of such a case
    is no statement about the server. So what fails after a delay is run once more, and a timed case
    as long as it was run late, `TRIES` times at most. Each repetition is noted, and told at the end
    of the test run. All other cases have one try only.
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
