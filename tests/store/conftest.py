"""A store on real servers whose scripts run under a guard, and redis-py beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.open import open_store
from tests.support.invariants import InvariantReport, check_invariants
from tests.support.patience import be_patient, patient_client
from tests.support.prelude import PRELUDE
from tests.support.servers import cluster_servers, observer, server_binary, standalone_server

__all__ = ["cluster_servers", "server_binary", "standalone_server"]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is given up or put off because the machine is slow."""
    be_patient(monkeypatch)


@pytest.fixture
async def store(backend: Embedded) -> AsyncIterator[Store]:
    """A store with the default settings, on a standalone server and again on a cluster."""
    async with open_store(patient_client(backend), prelude=PRELUDE) as opened:
        yield opened


@pytest.fixture
async def other_store(backend: Embedded, store: Store) -> AsyncIterator[Store]:
    """Another process's store over the same data: nothing in memory is shared with ``store``."""
    async with open_store(patient_client(backend), prelude=PRELUDE) as opened:
        yield opened


@pytest.fixture
def db(backend: Embedded) -> Iterator[Any]:
    """redis-py's client: looks at, and shifts time in, what the store wrote."""
    with observer(backend) as client:
        yield client


@pytest.fixture
def consistent(backend: Embedded) -> Callable[[], InvariantReport]:
    """Walks everything and asserts that indexes, counters and aliases agree with the jobs."""

    def check() -> InvariantReport:
        report = check_invariants(backend)
        assert report.problems == []
        return report

    return check
