"""An API for the clients' own bytes: on both kinds of Redis, behind both entry points."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from tests.clients.wire import Wire
from tests.http.api import open_app, serving
from tests.http.conftest import patience

__all__ = ["patience"]


@pytest.fixture(params=["hypercorn", "lane"])
async def wire(request: pytest.FixtureRequest, backend: Embedded) -> AsyncIterator[Wire]:
    """Serve the API on a standalone server and on a cluster, with and without the fast lane."""
    async with open_app(backend) as app, serving(app, lane=request.param == "lane") as port:
        yield Wire(port)
