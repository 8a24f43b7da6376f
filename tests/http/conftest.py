"""An API over a real Redis for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, open_app
from tests.support.patience import be_patient


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is given up or put off because the machine is slow."""
    be_patient(monkeypatch)


@pytest.fixture
def usual_times(patience: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the shorter times of the product, for a test of them."""
    monkeypatch.undo()


@pytest.fixture
async def api(standalone: Embedded) -> AsyncIterator[Api]:
    """Open the API on a standalone server, without keys, with the test hooks."""
    async with open_app(standalone, test_hooks=True, max_wait_ms=600_000) as app:
        yield Api(app)


@pytest.fixture
async def any_api(backend: Embedded) -> AsyncIterator[Api]:
    """Open the API on a standalone server, and again on a cluster."""
    async with open_app(backend, test_hooks=True) as app:
        yield Api(app)
