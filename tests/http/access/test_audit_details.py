"""Entries of the audit say what a setting was changed to, within bounds and without secrets."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from ojs_cluster.http.access.audit_details import MAX_BYTES, details_of
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, open_app
from tests.http.audits import await_entries
from tests.store.registered_schemas import register

RATE = {"limit": 9, "period": "PT1S"}


async def test_an_entry_has_the_old_and_the_new_values_of_a_setting(standalone: Embedded) -> None:
    async with open_app(standalone) as app:
        api = Api(app)
        await register(app.store, "t", "1")
        pool = {"queues": ["a", "b"], "strategy": "weighted", "weights": {"a": 2}}
        calls: list[tuple[str, str, Any, dict[str, Any]]] = [
            ("PUT", "admin/queues/q/rate-limit", {"concurrency": 5}, {"concurrency": {"new": 5}}),
            (
                *("PUT", "admin/queues/q/rate-limit", {"concurrency": 5, "rate": RATE}),
                {"rate": {"new": RATE}},
            ),
            (
                *("PUT", "admin/queues/q/rate-limit", {"concurrency": 7}),
                {
                    "concurrency": {"old": 5, "new": 7},
                    "rate": {"old": RATE},
                },
            ),
            (
                *("PUT", "admin/queues/q/config", {"default_timeout": 30}),
                {"default_timeout": {"new": 30}},
            ),
            (
                *("PUT", "queues/q", {"default_timeout": 31}),
                {"default_timeout": {"old": 30, "new": 31}},
            ),
            (
                *("PUT", "queues/q", {"config": {"default_timeout": None}}),
                {"config": {"old": {"default_timeout": 31}, "new": {"default_timeout": None}}},
            ),
            (
                *("PUT", "admin/pools/p", pool),
                {name: {"new": value} for name, value in pool.items()},
            ),
            (
                *("PUT", "admin/pools/p", {"queues": ["a"], "strategy": "round-robin"}),
                {
                    "queues": {"old": ["a", "b"], "new": ["a"]},
                    "strategy": {"old": "weighted", "new": "round-robin"},
                    "weights": {"old": {"a": 2}},
                },
            ),
            (
                *("PUT", "admin/tenants/acme/limits", {"max_scheduled": 9}),
                {"max_scheduled": {"new": 9}},
            ),
            (
                *("PUT", "admin/tenants/acme", {"limits": {"max_scheduled": 3}}),
                {"limits": {"old": {"max_scheduled": 9}, "new": {"max_scheduled": 3}}},
            ),
            (
                *("PUT", "admin/schemas/t", {"mode": "strict"}),
                {"mode": {"old": "", "new": "strict"}},
            ),
            ("PUT", "admin/pools/p", {"queues": []}, {}),
        ]
        for method, path, body, _details in calls:
            await api.call(method, f"/ojs/v1/{path}", body)
        found = await await_entries(app, len(calls))
    assert [each.get("details", {}) for each in found] == [call[3] for call in calls]


@pytest.mark.parametrize(
    ("action", "body", "named"),
    [
        (
            "webhook.create",
            {"url": "https://x/?token=S3CRET", "secret": "S3CRET", "active": True},
            {"url": {}, "secret": {}, "active": {"new": True}},
        ),
        ("webhook.rotate_secret", {"secret": "S3CRET"}, {}),
        (
            "job.edit",
            {"args": ["S3CRET"], "meta": {"S3CRET": 1}, "tags": ["S3CRET"], "priority": 3},
            {"args": {}, "meta": {}, "tags": {}, "priority": {"new": 3}},
        ),
        (
            "cron.register",
            {"args": ["S3CRET"], "options": {"args": "S3CRET"}, "queue": "q"},
            {"args": {}, "options": {}, "queue": {"new": "q"}},
        ),
        ("search.save", {"query": "args.card:S3CRET"}, {}),
        ("job.enqueue", {"args": ["S3CRET"]}, {}),
    ],
)
def test_no_value_that_may_be_a_secret_is_kept(
    action: str, body: dict[str, Any], named: dict[str, Any]
) -> None:
    old = {name: "S3CRET, the old one" for name, kept in named.items() if not kept}
    assert details_of(action, orjson.dumps(body), old) == named


@pytest.mark.parametrize(
    "config",
    [
        {"retention": {f"{number}": "é" * 500 for number in range(50)}, "max_size": 7},
        {f"{number}\u4e2d\n" * 20: 1 for number in range(100)} | {"max_size": 7},
        {"retention": [[[[[[]]]]]] * 500, "max_size": 7},
    ],
)
def test_details_are_small_whatever_the_body_has(config: dict[str, Any]) -> None:
    details = details_of("queue.configure", orjson.dumps(config), {"max_size": 6})
    assert len(orjson.dumps(details)) <= MAX_BYTES
    if len(config) < 20:
        assert details["max_size"] == {"old": 6, "new": 7}, "the largest are left out first"
    else:
        assert len(details) == 20, "the first members are named"


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b'{"a":' + b"[" * 40_000, b" " * 70_000])
def test_a_body_that_is_no_object_has_no_details(body: bytes) -> None:
    assert details_of("queue.configure", body, None) == {}
