"""Fixtures that every test may use."""

from __future__ import annotations

from tests.support.servers import (  # noqa: F401 - pytest finds fixtures by name
    backend,
    cluster,
    cluster_servers,
    server_binary,
    standalone,
    standalone_server,
)
