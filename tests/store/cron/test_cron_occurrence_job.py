"""Which errors make an occurrence's job impossible permanently, and which do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.store.features.cron import occurrence_job
from ojs_cluster.store.features.cron.occurrence_job import UnusableDefinition, make_job


async def test_a_process_without_threads_does_not_call_a_definition_unusable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def no_thread(_read: Callable[[], NewJob], _size: int) -> NewJob:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(occurrence_job, "off_loop", no_thread)
    with pytest.raises(RuntimeError, match="thread"):
        await make_job("daily", b'{"type":"t","args":[]}', 0)


async def test_a_definition_that_cannot_be_read_is_unusable() -> None:
    with pytest.raises(UnusableDefinition, match=r"."):
        await make_job("daily", b"{", 0)


@pytest.mark.parametrize(
    ("meta", "tenant"),
    [
        *((b'{"tenant_id":"acme"}', "acme"), (b'{"tenant_id":"a b"}', "")),
        *((b'{"tenant_id":5}', ""), (b'{"tenant_id":null}', ""), (b'{"tenant_id":""}', "")),
    ],
)
async def test_a_definition_with_any_meta_is_usable(meta: bytes, tenant: str) -> None:
    """An earlier version has accepted any ``tenant_id``."""
    job = await make_job("daily", b'{"type":"t","args":[],"meta":%b}' % meta, 0)
    assert job.tenant == tenant
    assert meta[1:-1] in job.body
