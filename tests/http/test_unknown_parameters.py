"""Parameters of a query that a route does not know are named."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.http import query
from ojs_cluster.http.routes.all_routes import ROUTES
from tests.http.api import Api
from tests.http.every_route import NAMES, prepared

HEADER = "x-ojs-unknown-parameters"


async def test_a_response_names_unknown_parameters(api: Api) -> None:
    job = await api.enqueue()
    reply = await api.get("/ojs/v1/jobs?stat=dead&queue=default&a%0d%0ab=1")
    assert reply.headers[HEADER] == "stat, a%0D%0Ab"
    assert [item["id"] for item in reply.json["jobs"]] == [job["id"]]
    assert HEADER not in (await api.get("/ojs/v1/jobs?queue=default")).headers


async def test_an_error_names_them_too(api: Api) -> None:
    reply = await api.get("/ojs/v1/jobs?state=nosuch&stat=dead")
    assert (reply.status, reply.headers[HEADER]) == (400, "stat")


async def test_a_response_names_ten_of_many(api: Api) -> None:
    names = "&".join(f"{'n' * 200}{number}=1" for number in range(50))
    reply = await api.get(f"/ojs/v1/jobs?{names}")
    assert reply.headers[HEADER] == ", ".join(["n" * 64] * 10)


async def test_a_purge_with_an_unknown_parameter_changes_nothing(api: Api) -> None:
    retry = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
    job = await api.active(options={"retry": retry})
    await api.post(
        "/ojs/v1/workers/nack", {"job_id": job["id"], "error": {"code": "c", "message": "m"}}
    )
    refused = await api.post("/ojs/v1/dead-letter/purge?queu=other", {"confirm": True})
    assert (refused.status, refused.error["code"]) == (400, "invalid_request")
    assert "queu" in refused.error["message"]
    assert len((await api.get("/ojs/v1/dead-letter")).json["jobs"]) == 1
    purged = await api.post("/ojs/v1/dead-letter/purge?queue=other", {"confirm": True})
    assert purged.status == 200


async def test_a_change_that_selects_nothing_by_its_query_goes_on(api: Api) -> None:
    reply = await api.post("/ojs/v1/jobs?trace=1", {"type": "t", "args": []})
    assert (reply.status, reply.headers[HEADER]) == (201, "trace")


async def test_every_parameter_that_a_handler_reads_is_declared(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a response would name a parameter that is known."""
    ids, read = await prepared(api), set[str]()

    class Recorded(dict[str, str]):
        def get(self, name: str, default: Any = None) -> Any:
            read.add(name)
            return super().get(name, default)

        def __contains__(self, name: object) -> bool:
            read.add(str(name))
            return super().__contains__(name)

    parse = query.parameters

    def parameters(text: str) -> Any:
        given = parse(text)
        return Recorded(given) if text == "limit=5" else given

    monkeypatch.setattr(query, "parameters", parameters)
    undeclared, checked = dict[str, set[str]](), 0
    for route in ROUTES:
        if route.method != "GET" or route.test_hook or "stream" in route.template:
            continue
        read.clear()
        target = route.template.replace(
            "{id}", ids["flow" if "workflow" in route.template else "job"]
        )
        for name in ("name", "key", "type", "worker_id", "version"):
            value = NAMES["cron"] if "cron" in route.template else NAMES["queue"]
            target = target.replace("{" + name + "}", value)
        reply = await api.get(f"{target}?limit=5")
        if reply.response.stream is not None:
            reply.response.stream.close()
        checked += bool(read)
        if read - route.query_names:
            undeclared[route.template] = read - route.query_names
    assert not undeclared
    assert checked > 30
