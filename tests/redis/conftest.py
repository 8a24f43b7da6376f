"""Servers of the session that only tests of this folder use: see ``chosen_server``."""

from __future__ import annotations

from tests.support.servers import cluster_servers, server_binary, standalone_server

__all__ = ["cluster_servers", "server_binary", "standalone_server"]
