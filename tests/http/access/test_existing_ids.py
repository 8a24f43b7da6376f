"""What a key for some queues, or for one tenant, learns of the ids of other jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ojs_cluster.core.access.scopes import Keyring, Principal, QueuePatterns, digest
from ojs_cluster.core.errors import Duplicate
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.authorization.queue_scope import hide_existing
from ojs_cluster.http.messages import Request
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import SHARDS, Api, Reply, open_app

MAIL = QueuePatterns(["mail"])
PRINCIPALS = {
    "all": Principal("all"),
    "mail": Principal("mail", queues=MAIL),
    "acme": Principal("acme", tenant="acme"),
    "rival": Principal("rival", tenant="rival"),
}
ROUTES = ("/ojs/v1/jobs", "/ojs/v1/jobs/batch", "/ojs/v1/jobs/bulk", "/ojs/v1/jobs/bulk?atomic")


@pytest.fixture
async def api(backend: Embedded) -> AsyncIterator[Api]:
    keyring = Keyring({digest(name): who for name, who in PRINCIPALS.items()}, {})
    async with open_app(backend, access=AccessControl(keyring)) as app:
        yield Api(app)


async def enqueue(api: Api, key: str, route: str, job_id: str, queue: str) -> Reply:
    """Enqueue a job with this id by one of ``ROUTES``, beside others in requests of many."""
    job = {"type": "t", "args": [], "options": {"queue": queue}, "id": job_id}
    path, _, atomic = route.partition("?")
    plain = {name: value for name, value in job.items() if name != "id"}
    body: dict[str, Any] = job if path.endswith("/jobs") else {"jobs": [plain, job]}
    if atomic:
        body["atomicity"] = "atomic"
    return await api.post(path, body, headers={"Authorization": f"Bearer {key}"})


def error_of(reply: Reply) -> dict[str, Any]:
    """Return the error of the job with the id, without the id of the request."""
    error = reply.json["items"][1]["error"] if "items" in reply.json else reply.error
    return {name: value for name, value in error.items() if name not in ("request_id", "timestamp")}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("owner", "key", "queue"), [("all", "mail", "wages"), ("rival", "acme", "mail")]
)
async def test_an_id_of_others_is_refused_without_saying_that_their_job_exists(
    api: Api, route: str, owner: str, key: str, queue: str
) -> None:
    taken = new_job_id(0, SHARDS, 1_700_000_000_000)
    assert (await enqueue(api, owner, ROUTES[0], taken, queue)).status == 201
    refused = await enqueue(api, key, route, taken, "mail")
    error = error_of(refused)
    assert error["code"] == "invalid_request"
    assert "the id cannot be used" in error["message"]
    for word in ("exists", "duplicate", "wages", "rival"):
        assert word not in str(error).lower(), error
    # The job is as it was, and its owner learns that it exists.
    again = await enqueue(api, owner, route, taken, queue)
    assert error_of(again)["code"] == "duplicate"


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("key", ["mail", "acme"])
async def test_a_repeated_id_of_its_own_is_a_duplicate(api: Api, route: str, key: str) -> None:
    own = new_job_id(0, SHARDS, 1_700_000_000_000)
    assert (await enqueue(api, key, ROUTES[0], own, "mail")).status == 201
    error = error_of(await enqueue(api, key, route, own, "mail"))
    assert (error["code"], error["details"]["existing_job_id"]) == ("duplicate", own)


async def test_a_unique_job_that_has_moved_to_another_queue_is_not_named(api: Api) -> None:
    moved = new_job_id(0, SHARDS, 1_700_000_000_000)
    assert (await enqueue(api, "all", ROUTES[0], moved, "wages")).status == 201
    found = Duplicate(
        f"a job of the same uniqueness exists: '{moved}' is active",
        existing_job_id=moved,
        existing_job_state="active",
        uniqueness_key="k",
    )
    restricted = Request("POST", "/ojs/v1/jobs", queues=MAIL)
    hidden = await hide_existing(api.app, restricted, found)
    assert isinstance(hidden, Duplicate)
    assert hidden.details.get("uniqueness_key") == "k"
    assert moved not in f"{hidden.message} {hidden.details}"
    assert await hide_existing(api.app, Request("POST", "/ojs/v1/jobs"), found) is found
