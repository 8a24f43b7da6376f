"""A fetch that cannot read a checkpoint gives its jobs back."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.http.handlers.workers import fetch
from tests.http.api import Api

FETCH = {"queues": ["default"], "worker_id": "w"}


async def test_jobs_are_released_when_their_checkpoints_cannot_be_read(
    any_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = (await any_api.post("/ojs/v1/jobs", {"type": "t", "args": []})).json["job"]["id"]
    target = f"/ojs/v1/jobs/{first}"
    saved = await any_api.call("PUT", f"{target}/checkpoint", {"state": [1]})
    assert saved.status == 200

    async def fail(*_: Any) -> Any:
        raise BackendUnavailable("no answer", outcome="unknown")

    with monkeypatch.context() as patch:
        patch.setattr(fetch, "read_of_fetched", fail)
        assert (await any_api.post("/ojs/v1/workers/fetch", FETCH)).status == 503
    job = (await any_api.get(target)).json["job"]
    assert (job["state"], job["attempt"]) == ("available", 0)

    [job] = (await any_api.post("/ojs/v1/workers/fetch", FETCH)).json["jobs"]
    assert (job["attempt"], job["checkpoint"]["state"]) == (1, [1])
