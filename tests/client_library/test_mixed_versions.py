"""Lists are complete while processes of an earlier version answer some of the requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from ojs_client import ApiError, Client
from ojs_client.ctl.api import Api
from ojs_client.ctl.profile import Connection

NAMES = [f"cron-{number}" for number in range(9)]
CURSOR = {"field": "cursor"}


class Mixed:
    """Processes of two versions that answer requests for the same list.

    Attributes:
        versions: which process answers each request, ``new`` or ``old``; ``none`` refuses it.
        asked: the query of each request.
    """

    def __init__(self) -> None:
        self.url = ""
        self.versions: Iterator[str] = iter(())
        self.asked: list[dict[str, str]] = []
        self.refusal: dict[str, Any] = CURSOR

    def answer(self, query: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Return a page, whose cursor is an offset (``o2``), or in a new process a name."""
        self.asked.append(query)
        version, cursor, limit = next(self.versions), query.get("cursor"), int(query["limit"])
        start = int(query.get("offset", 0))
        if cursor in NAMES and version == "new":
            start = NAMES.index(cursor) + 1
        elif version == "none" or cursor in NAMES:
            return 400, {"error": {"code": "invalid_request", "details": self.refusal}}
        elif cursor is not None:
            start = int(cursor.removeprefix("o"))
        shown = NAMES[start : start + limit]
        end = start + len(shown)
        pagination = {}
        if end < len(NAMES):
            pagination["next_cursor"] = shown[-1] if version == "new" else f"o{end}"
        crons = [{"name": name, "expression": "@daily"} for name in shown]
        return 200, {"crons": crons, "pagination": pagination}


@pytest.fixture
def mixed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mixed]:
    monkeypatch.setattr("ojs_client.paging._PAGE", 2)
    monkeypatch.setattr("ojs_client.ctl.api._PAGE", 2)
    processes = Mixed()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = processes.answer(dict(parse_qsl(urlsplit(self.path).query)))
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        processes.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield processes
        finally:
            server.shutdown()
            thread.join()


ORDERS = ["new old new new new new", "old new old old new old new", "new old old new old new new"]


@pytest.mark.parametrize("order", ORDERS)
async def test_the_library_lists_all_cron_jobs(mixed: Mixed, order: str) -> None:
    mixed.versions = iter(order.split())
    async with Client(mixed.url) as client:
        assert [cron.name for cron in await client.cron.list_all()] == NAMES
    assert {"limit": "2", "offset": "2"} in mixed.asked or order.startswith("old")


@pytest.mark.parametrize("order", ORDERS)
def test_the_command_line_lists_all_entries(mixed: Mixed, order: str) -> None:
    mixed.versions = iter(order.split())
    api = Api(Connection(mixed.url, "", "a test"), 10)
    assert [each["name"] for each in api.pages("/list", "crons", None)] == NAMES
    mixed.versions = iter(order.split())
    assert [each["name"] for each in api.pages("/list", "crons", 5)] == NAMES[:5]
    api.close()


@pytest.mark.parametrize(
    ("order", "refusal", "requests"),
    [("new old none", CURSOR, 3), ("new none", {"field": "limit"}, 2), ("none", CURSOR, 1)],
)
async def test_another_refusal_is_raised(
    mixed: Mixed, order: str, refusal: dict[str, Any], requests: int
) -> None:
    mixed.refusal = refusal
    mixed.versions = iter(order.split())
    async with Client(mixed.url) as client:
        with pytest.raises(ApiError, match="400"):
            await client.cron.list_all()
    assert len(mixed.asked) == requests
    mixed.versions = iter(order.split())
    api = Api(Connection(mixed.url, "", "a test"), 10)
    with pytest.raises(ApiError, match="400"):
        list(api.pages("/list", "crons", None))
    assert len(mixed.asked) == 2 * requests
    api.close()


def test_a_search_which_has_no_offsets_is_not_continued_by_one(mixed: Mixed) -> None:
    mixed.versions = iter(["new", "old"])
    api = Api(Connection(mixed.url, "", "a test"), 10)
    with pytest.raises(ApiError, match="400"):
        list(api.pages("/list", "crons", None, query="type:t.a"))
    assert [each.get("offset") for each in mixed.asked] == [None, None]
    api.close()
