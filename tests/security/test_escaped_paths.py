"""An escaped path matches no route, so it cannot bypass a proxy that compares bytes."""

from __future__ import annotations

import pytest

from ojs_cluster.core.errors import NotFound
from ojs_cluster.http.routes.all_routes import ROUTES, router_for
from ojs_cluster.http.routing.router import Route
from tests.http.api import Api

UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def _escaped_spellings(route: Route) -> list[str]:
    """Return the route's path with each byte of its fixed segments escaped, one at a time."""
    escaped = []
    segments = route.template.split("/")[1:]
    plain = ["x" if segment.startswith("{") else segment for segment in segments]
    for position, segment in enumerate(segments):
        if segment.startswith("{"):
            continue
        for at, character in enumerate(segment):
            assert character in UNRESERVED
            for escape in {f"%{ord(character):02x}", f"%{ord(character):02X}"}:
                segments_escaped = [*plain]
                segments_escaped[position] = segment[:at] + escape + segment[at + 1 :]
                escaped.append("/" + "/".join(segments_escaped))
        segments_escaped = [*plain]
        segments_escaped[position] = "".join(f"%{ord(character):02x}" for character in segment)
        escaped.append("/" + "/".join(segments_escaped))
    return escaped


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.template}")
def test_no_route_is_reached_by_an_escaped_spelling_of_its_fixed_segments(route: Route) -> None:
    router = router_for(True)
    for path in _escaped_spellings(route):
        with pytest.raises(NotFound):
            router.match(route.method, path)


def test_a_parameter_is_decoded_as_before() -> None:
    route, params = router_for(False).match("GET", "/ojs/v1/queues/%65mails%2Fnew")
    assert route.template == "/ojs/v1/queues/{name}"
    assert params == ("emails/new",)


async def test_an_escaped_admin_route_is_404_and_does_nothing(api: Api) -> None:
    created = await api.post("/ojs/v1/jobs", {"type": "t", "args": []})
    assert created.status == 201
    for path in (
        "/ojs/v1/%61dmin/queues/default/pause",
        "/ojs/v1/admin%2Fqueues/default/pause",
        "/%6fjs/v1/admin/queues/default/pause",
        "/ojs/v1/admin/queues/default/%70ause",
    ):
        reply = await api.post(path, {})
        assert (reply.status, reply.json["error"]["code"]) == (404, "not_found")
    stats = await api.get("/ojs/v1/queues/default/stats")
    assert stats.json["queue"]["paused"] is False
