"""The document is served like the manifest, with an entity tag."""

from __future__ import annotations

import httpx
import pytest

from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, open_app, serving
from tests.http.openapi.answers import document

PATH = "/ojs/openapi.json"


async def test_the_document_is_served(api: Api) -> None:
    reply = await api.get(PATH)
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json == document()
    assert (await api.get(PATH)).body is reply.body, "it is generated once"


@pytest.mark.parametrize("tag", ["{}", "W/{}", '"other", {}', "*"])
async def test_a_current_copy_is_not_sent_again(api: Api, tag: str) -> None:
    etag = (await api.get(PATH)).headers["etag"]
    reply = await api.get(PATH, headers={"If-None-Match": tag.format(etag)})
    assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", etag)


async def test_another_copy_is_replaced(api: Api) -> None:
    assert (await api.get(PATH, headers={"If-None-Match": '"other"'})).status == 200


async def test_the_document_needs_a_key(standalone: Embedded) -> None:
    async with open_app(standalone, api_keys=("secret",)) as app:
        assert (await Api(app).get(PATH)).status == 401
        reply = await Api(app).get(PATH, headers={"Authorization": "Bearer secret"})
        assert reply.status == 200


@pytest.mark.parametrize("lane", [False, True])
async def test_both_entry_points_serve_the_document(api: Api, lane: bool) -> None:
    async with serving(api.app, lane=lane) as port, httpx.AsyncClient(timeout=60) as client:
        url = f"http://127.0.0.1:{port}{PATH}"
        full = await client.get(url)
        assert full.status_code == 200
        assert full.json() == document()
        current = await client.get(url, headers={"If-None-Match": full.headers["etag"]})
        assert (current.status_code, current.content) == (304, b"")
        assert "content-length" not in current.headers
        # The connection is usable, so both sides agree on where the response ended.
        assert (await client.get(url)).status_code == 200
