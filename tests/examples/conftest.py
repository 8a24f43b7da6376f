"""One server for all examples, started as `ojs-cluster dev` starts it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ojs_client import SyncClient
from tests.server.programs import free_port, program
from tests.support.servers import own_server


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with a scheduler, on a Redis of its own that no other test empties."""
    port = free_port()
    with own_server(tmp_path_factory.mktemp("examples"), cluster=False) as redis:
        env = {"REDIS_URL": redis.url, "OJS_PORT": str(port), "OJS_WORKERS": "1"}
        with program(["-m", "ojs_cluster.cli", "dev"], env=env) as running:
            running.wait_line("Ctrl-C stops everything")
            yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def client(server_url: str) -> Iterator[SyncClient]:
    """A client of that server."""
    with SyncClient(server_url) as client:
        yield client
