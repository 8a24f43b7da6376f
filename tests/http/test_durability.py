"""Durability that a request asks for. Most servers here have no replica to confirm writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from redis.exceptions import ResponseError

from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.redis.durability import Durability, require_durability
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, open_app
from tests.support.servers import observer, own_server

HASTY = {"durability_timeout_s": 0.2}
REPLICA = {"ojs-durability": "replica"}


async def test_a_write_that_no_replica_confirms_is_503_and_stored(backend: Embedded) -> None:
    async with open_app(backend, redis=HASTY) as app:
        api = Api(app)
        job_id = new_job_id(0, 1, 1_700_000_000_000)
        job = {"type": "test.echo", "args": [], "id": job_id}
        reply = await api.post("/ojs/v1/jobs", job, headers=REPLICA)
        assert reply.status == 503
        assert reply.error["code"] == "backend_unavailable"
        assert reply.error["retryable"] is True
        assert reply.error["details"]["outcome"] == "stored_unconfirmed"
        assert int(reply.headers["retry-after"]) >= 1
        assert (await api.get(f"/ojs/v1/jobs/{job_id}")).json["job"]["state"] == "available"
        # The repetition makes no second job, and is no surer of the first.
        again = await api.post("/ojs/v1/jobs", job, headers=REPLICA)
        assert again.error["details"]["outcome"] == "stored_unconfirmed"
        assert len(await api.fetch(count=10)) == 1


PATIENT = {"durability_timeout_s": 30.0, "reply_timeout_s": 60.0, "call_timeout_s": 60.0}


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """Three masters with a replica each, all of them with a file."""
    directory = tmp_path_factory.mktemp("durability")
    with own_server(directory, replicas=1, append_only=True, node_timeout_ms=60_000) as servers:
        yield servers


@pytest.mark.parametrize("asked", ["replica", "fsync"])
async def test_a_write_that_a_replica_confirms_is_answered_and_is_there(
    replicated: Embedded, asked: str
) -> None:
    def copies(key: bytes) -> int:
        masters, found = replicated.masters(), 0
        for node in (node for node in replicated.nodes if node not in masters):
            with node.client() as replica:
                replica.execute_command("READONLY")  # type: ignore[no-untyped-call]
                with suppress(ResponseError):  # it has other slots
                    found += replica.exists(key)
        return found

    async with open_app(replicated, redis=PATIENT) as app:
        api = Api(app)
        for number in range(12):  # so each master has some
            job = {"type": "test.echo", "args": [], "options": {"queue": f"q{number}"}}
            reply = await api.post("/ojs/v1/jobs", job, headers={"ojs-durability": asked})
            assert reply.status == 201, reply.body
            job_id = reply.json["job"]["id"]
            assert copies(app.store.keys.shard_of_id(job_id).job(job_id)) == 1
        [active] = await api.fetch("q3", worker_id="w")
        done = {"job_id": active["id"], "worker_id": "w", "result": 1}
        reply = await api.post("/ojs/v1/workers/ack", done, headers={"ojs-durability": asked})
        assert reply.status == 200, reply.body


async def test_what_is_stored_unconfirmed_is_named(backend: Embedded) -> None:
    new = {"type": "test.echo", "args": []}
    async with open_app(backend, redis=HASTY) as app:
        api = Api(app)

        async def details(path: str, body: Any) -> Any:
            found = (await api.post(path, body, headers=REPLICA)).error["details"]
            assert found["outcome"] == "stored_unconfirmed"
            return found

        job_id = (await details("/ojs/v1/jobs", new))["job_id"]
        job_ids = (await details("/ojs/v1/jobs/batch", {"jobs": [new, new]}))["job_ids"]
        assert len(job_ids) == 2
        for stored in (job_id, *job_ids):
            assert (await api.get(f"/ojs/v1/jobs/{stored}")).status == 200
        workflow = {"type": "chain", "steps": [new]}
        workflow_id = (await details("/ojs/v1/workflows", workflow))["workflow_id"]
        assert (await api.get(f"/ojs/v1/workflows/{workflow_id}")).status == 200
        cron = {"name": "hourly", "cron": "@hourly", **new}
        assert (await api.post("/ojs/v1/cron", cron)).status == 201
        run = await details("/ojs/v1/cron/hourly/trigger", None)
        assert (await api.get(f"/ojs/v1/jobs/{run['job_id']}")).status == 200


async def test_a_request_waits_only_once_for_a_missing_confirmation(
    standalone: Embedded,
) -> None:
    async with open_app(standalone, redis=HASTY) as app:

        def group(prefix: str) -> Any:
            queues = (f"{prefix}{n}" for n in range(5))
            steps = [{"type": "test.echo", "args": [], "options": {"queue": it}} for it in queues]
            return {"type": "group", "jobs": steps}

        with observer(standalone) as db:
            # A script that the server does not know yet is sent, and confirmed, twice.
            assert (await Api(app).post("/ojs/v1/workflows", group("r"))).status == 201
            db.config_resetstat()
            reply = await Api(app).post("/ojs/v1/workflows", group("q"), headers=REPLICA)
            assert reply.error["details"]["outcome"] == "stored_unconfirmed"
            # That of the workflow: names of queues are registered without waiting for replicas.
            assert db.info("commandstats")["cmdstat_wait"]["calls"] == 1
            reply = await Api(app).post("/ojs/v1/workflows", group("q"), headers=REPLICA)
            assert db.info("commandstats")["cmdstat_wait"]["calls"] == 2
        assert len(await Api(app).fetch(*(f"q{n}" for n in range(5)), count=19)) == 10


async def test_the_registration_of_a_queue_waits_for_no_confirmation(standalone: Embedded) -> None:
    async with open_app(standalone, redis=HASTY) as app:
        with observer(standalone) as db, require_durability(Durability.REPLICA) as work:
            db.config_resetstat()
            await app.store.queues.ensure(app.store, ["new"])
            assert "cmdstat_wait" not in db.info("commandstats")
            assert work.unconfirmed_reason is None


async def test_an_ack_that_is_not_confirmed_may_be_repeated(backend: Embedded) -> None:
    async with open_app(backend, redis=HASTY) as app:
        api = Api(app)
        job = await api.active()
        body = {"job_id": job["id"], "worker_id": "w1", "result": {"n": 1}}
        reply = await api.post("/ojs/v1/workers/ack", body, headers=REPLICA)
        assert reply.error["details"]["outcome"] == "stored_unconfirmed"
        again = await api.post("/ojs/v1/workers/ack", body)
        assert again.status == 200
        assert again.json["state"] == "completed"


async def test_a_fetch_waits_for_no_confirmation(backend: Embedded) -> None:
    """A lost lease makes its job available again; an error would leave the job leased."""
    async with open_app(backend, redis=HASTY | {"durability": Durability.REPLICA}) as app:
        api = Api(app)
        assert (await api.post("/ojs/v1/jobs", {"type": "test.echo", "args": []})).status == 503
        assert len(await api.fetch(count=10)) == 1
        # A token request of a limited job is a write, too, and needs no confirmation.
        limited = {"rate_limit": {"key": "tenant", "concurrency": 1}}
        job = {"type": "test.echo", "args": [], "options": limited}
        assert (await api.post("/ojs/v1/jobs", job)).status == 503
        await api.fetch(count=10)


async def test_a_request_cannot_lower_the_durability_of_the_server(standalone: Embedded) -> None:
    async with open_app(standalone, redis=HASTY | {"durability": Durability.REPLICA}) as app:
        reply = await Api(app).post(
            "/ojs/v1/jobs", {"type": "test.echo", "args": []}, headers={"OJS-Durability": "async"}
        )
        assert reply.status == 503


async def test_the_durability_of_a_request_does_not_affect_the_next_one(
    standalone: Embedded,
) -> None:
    async with open_app(standalone, redis=HASTY) as app:
        api = Api(app)
        job = {"type": "test.echo", "args": []}
        assert (await api.post("/ojs/v1/jobs", job, headers=REPLICA)).status == 503
        assert (await api.post("/ojs/v1/jobs", job)).status == 201


UNKNOWN = pytest.mark.parametrize("asked", ["", "REPLICAS", "2", "replica,fsync"])


@UNKNOWN
async def test_an_unknown_durability_is_refused_and_nothing_is_written(
    api: Api, asked: str
) -> None:
    reply = await api.post(
        "/ojs/v1/jobs", {"type": "test.echo", "args": []}, headers={"OJS-Durability": asked}
    )
    assert reply.status == 400
    assert reply.error["details"]["field"] == "headers.ojs-durability"
    assert await api.fetch() == []


@UNKNOWN
async def test_an_unknown_durability_is_refused_on_a_server_without_confirmation(
    api: Api, asked: str
) -> None:
    await api.enqueue()
    reply = await api.post(
        "/ojs/v1/workers/fetch", {"queues": ["default"]}, headers={"OJS-Durability": asked}
    )
    assert reply.status == 400
    assert reply.error["details"]["field"] == "headers.ojs-durability"
    assert len(await api.fetch()) == 1
