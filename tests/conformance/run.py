"""One suite file against one server: the body of every conformance test."""

from __future__ import annotations

import os

import httpx
import trio

from tests.conformance.dsl.case import Case
from tests.conformance.dsl.runner import run_case

TIMEOUT_S = 30


def run_suite(target: str, case: Case) -> None:
    """Not async itself: pytest-trio would hide the failure that xfail looks for in a group."""
    trio.run(_reset_and_run, target, case)


async def _reset_and_run(target: str, case: Case) -> None:
    """The suites share queue names, job ids and counters, so each starts with an empty server."""
    key = os.environ.get("OJS_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(base_url=target, timeout=TIMEOUT_S, headers=headers) as client:
        reset = await client.post("/ojs/v1/admin/reset")
        assert reset.status_code == 200, "is the server run with OJS_TEST_HOOKS=true?"
        await run_case(case, client)
