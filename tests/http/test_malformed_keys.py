"""Keys that another program has written with another type: what every route answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from ojs_cluster.http.messages import Request
from ojs_cluster.http.routes.all_routes import ROUTES
from ojs_cluster.keys import kind_of_key
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, dispatch, open_app
from tests.http.every_route import DEFINITION, body_of, path_of, prepared
from tests.support.servers import flush, observer

V: Final = "/ojs/v1"
CLEAR: Final = (
    b'"code":"malformed_key"',
    b'"code":"malformed_job"',
    b"the events of a shard cannot be read now",
)
"""What the answers with a status of 500 and more say."""


PARTS: Final = 4
"""Each kind of key takes some tenths of a second."""


@pytest.fixture
def db(standalone: Embedded) -> Iterator[Any]:
    with observer(standalone) as client:
        yield client


async def filled(api: Api) -> dict[str, str]:
    """Have one thing of each kind that the routes store."""
    ids = await prepared(api)
    key = {"idempotency-key": "k"}
    await api.post(f"{V}/jobs/bulk", {"jobs": [DEFINITION]}, headers=key)
    for path, body in (
        ("/jobs", {**DEFINITION, "options": {"queue": "q", "unique": {}}}),
        ("/jobs", {**DEFINITION, "options": {"queue": "q", "delay_until": "+PT1H"}}),
        ("/jobs", {**DEFINITION, "id": "01890a5d-ac96-774b-bcce-b302099a8057"}),
        ("/workers/heartbeat", {"worker_id": "w1", "active_jobs": [ids["job"]]}),
        ("/admin/marks", {"label": "v1"}),
        ("/webhooks/subscriptions", {"url": "https://a.example/", "events": ["job.completed"]}),
        ("/schemas", {"type": "a.b", "version": "1.0.0", "schema": {"type": "array"}}),
    ):
        made = await api.post(V + path, body)
        assert made.status < 300, made.body
    return ids


@pytest.mark.parametrize("part", range(PARTS))
async def test_every_route_says_that_a_key_is_malformed(
    standalone: Embedded, db: Any, part: int
) -> None:
    async with open_app(standalone) as app:
        await filled(Api(app))
    stored = {key: db.dump(key) for key in db.keys("ojs:*")}
    kinds = {kind_of_key(key) for key in stored} - {b"schema"}
    wrong: list[str] = []
    for kind in sorted(kinds)[part::PARTS]:
        flush(standalone)
        async with open_app(standalone) as app:
            api = Api(app)
            ids = await filled(api)
            for key in db.keys("ojs:*"):
                if kind_of_key(key) == kind:
                    is_string = db.type(key) == b"string"
                    db.delete(key)
                    db.lpush(key, "x") if is_string else db.set(key, "x")
            for route in ROUTES:
                if route.open or route.test_hook:
                    continue
                body = b""
                if route.method in ("POST", "PUT", "PATCH"):
                    body = json.dumps(body_of(route, ids["job"])).encode()
                headers = {"content-type": "application/json"} if body else {}
                path = path_of(route, ids)
                answer = await dispatch(app, Request(route.method, path, "", headers, body))
                if answer.status >= 500 and not any(code in answer.body for code in CLEAR):
                    wrong.append(f"{kind!r} {route.method} {path}: {answer.body!r}")
    assert not wrong, "\n".join(wrong)
