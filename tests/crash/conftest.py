"""Run each crash test on a standalone server and on a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.open import open_store
from tests.crash.harness import SHARDS, World
from tests.support.patience import be_patient, patient_client
from tests.support.prelude import PRELUDE
from tests.support.servers import observer


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set long timeouts, so that a slow machine changes no result."""
    be_patient(monkeypatch)


@pytest.fixture
async def world(backend: Embedded) -> AsyncIterator[World]:
    """The surviving process after another process has died."""
    async with open_store(patient_client(backend), shards=SHARDS, prelude=PRELUDE) as store:
        with observer(backend) as db:
            yield World(store, db, backend)
