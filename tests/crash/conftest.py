"""Survivors on a standalone server, and again on a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded import Embedded
from ojs_cluster.store.context import open_store
from tests.crash.harness import SHARDS, World
from tests.support.prelude import PRELUDE
from tests.support.servers import observer


@pytest.fixture
async def world(backend: Embedded) -> AsyncIterator[World]:
    """What is left when a process has died."""
    settings = ClientSettings.from_url(backend.url)
    async with open_store(settings, shards=SHARDS, prelude=PRELUDE) as store:
        with observer(backend) as db:
            yield World(store, db, backend)
