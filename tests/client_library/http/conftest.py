"""Scenarios that run on asyncio and on trio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from tests.client_library.http.served import LIMIT_S


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Run a scenario on asyncio and on trio."""

    def start(scenario: Callable[[], Awaitable[None]]) -> None:
        async def limited() -> None:
            with anyio.fail_after(LIMIT_S):
                await scenario()

        anyio.run(limited, backend=request.param)

    return start
