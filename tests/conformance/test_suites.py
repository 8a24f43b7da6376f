"""The OpenJobSpec conformance suites, one test per file and topology."""

from __future__ import annotations

import os

import httpx

from tests.conformance.dsl.case import Case
from tests.conformance.dsl.runner import run_case

TIMEOUT_S = 30


async def test_suite(target: str, case: Case) -> None:
    """Reset the server, then run the file; the suites share queue names, ids and counters."""
    key = os.environ.get("OJS_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(base_url=target, timeout=TIMEOUT_S, headers=headers) as client:
        reset = await client.post("/ojs/v1/admin/reset")
        assert reset.status_code == 200, "is the server run with OJS_TEST_HOOKS=true?"
        await run_case(case, client)
