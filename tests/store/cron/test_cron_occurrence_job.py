"""Which errors make an occurrence's job impossible permanently, and which do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.store.cron import occurrence_job
from ojs_cluster.store.cron.occurrence_job import UnusableDefinition, make_job


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
