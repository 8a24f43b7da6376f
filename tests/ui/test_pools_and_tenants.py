"""The pages of worker pools and of tenants: their numbers, and who sees them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pytest

from ojs_cluster.store.ground.process_state.pool_table import read_counts
from ojs_cluster.ui.pages import pools
from tests.support.servers import wait_until
from tests.ui.dashboard import Running
from tests.ui.demo import Demo
from tests.ui.html import parse
from tests.ui.test_pages import page
from tests.ui.test_queues import refused, send


def row(text: str, name: str) -> str:
    """Return the text of the row with a link of this name."""
    rows = text.partition("<tbody>")[2].split("</tr>")
    found = next(each for each in rows if f">{name}</a>" in each)
    return " ".join(parse(found.partition("<tr>")[2]).text.split())


def test_pools_have_their_queues_with_weights_and_jobs(admin: httpx.Client, demo: Demo) -> None:
    text = page(admin, "/ui/pools")
    assert "4 jobs by 1 fetch since" in " ".join(parse(text).text.split())
    assert "weighted: in proportion" in text
    assert row(text, "back-office").endswith("billing 3 3 75 % 75 %")
    assert row(text, "exports") == "exports 1 1 25 % 25 %"
    assert 'href="./queues/billing"' in text


def test_a_key_for_some_queues_sees_pools_of_these_only(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        api.put("/ojs/v1/admin/pools/mail", json={"queues": ["email"]}).raise_for_status()
        with running.browser("email-key") as client:
            text = page(client, "/ui/pools")
        assert "back-office" not in text
        assert "mail" in parse(text).text
        link = 'href="./tenants"'
        assert link in page(admin, "/ui/pools")
        assert link not in text, "a tenant has jobs in any queues"
        api.delete("/ojs/v1/admin/pools/mail").raise_for_status()


def test_pools_are_created_changed_and_deleted_by_forms(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        path = "/ui/pools/by-hand"

        def stored() -> dict[str, Any]:
            found: dict[str, Any] = api.get("/ojs/v1/admin/pools/by-hand").json()["pool"]
            return found

        def seen() -> str:
            (field,) = [
                e
                for e in parse(page(admin, path)).all("input")
                if e.attributes.get("name") == "seen"
            ]
            return field.attributes["value"]

        assert 'href="./pools/_new"' in page(admin, "/ui/pools")
        new = {"name": "by-hand", "strategy": "weighted", "queues": "orders=7\r\n\r\nreports\r\n"}
        for wrong, field, words in (
            ({"name": "By Hand"}, "name", "pool name has 1 to 255"),
            ({"name": "back-office"}, "name", "exists"),
            ({"queues": "orders=many"}, "queues", "weight of"),
            ({"queues": "orders=0"}, "queues", "from 1 to 1000"),
            ({"queues": "orders\norders"}, "queues", "named twice"),
            ({"queues": ""}, "queues", "between 1 and 64"),
            ({"strategy": "best"}, "strategy", "must be one of"),
        ):
            assert words in refused(admin, "/ui/pools/_new", {**new, **wrong}, field).lower()
        assert "The pool by-hand is created" in send(admin, "/ui/pools/_new", new)
        assert (stored()["queues"], stored()["weights"]) == (["orders", "reports"], {"orders": 7})
        assert "orders=7\nreports</textarea>" in page(admin, path)
        first = seen()
        grown = {**new, "queues": "reports=2\norders=7", "seen": first}
        assert "is changed" in send(admin, path, grown)
        assert stored()["queues"] == ["reports", "orders"], "the order counts"
        late = admin.post(path, data={**new, "queues": "mails", "seen": first})
        assert late.status_code == 409, "another user has changed it"
        assert "It now has the strategy weighted and the queues reports=2, orders=7" in late.text
        assert "Nothing was changed" in send(admin, path, {**grown, "seen": seen()})
        fewer = {**new, "queues": "reports=2", "seen": seen()}
        assert "Take orders out of the pool by-hand?" in admin.post(path, data=fewer).text
        assert len(stored()["queues"]) == 2, "the page only asks"
        send(admin, path, {**fewer, "confirmed": "1"})
        assert stored()["queues"] == ["reports"]
        with running.browser("viewer-key") as viewer:
            main = page(admin, path).partition("<main")[2].partition("</main>")[0]
            assert "<form" in main
            shown = page(viewer, path)
            assert "<form" not in shown.partition("<main")[2].partition("</main>")[0]
            for action in (path, f"{path}/delete", "/ui/pools/_new"):
                assert viewer.post(action, data=grown).status_code == 403
            assert viewer.get("/ui/pools/_new").status_code == 403
        with running.browser("email-key") as team:
            assert team.get(path).status_code == 404
            assert "by-hand is deleted" not in send(team, f"{path}/delete", {})
            assert stored()["queues"] == ["reports"], "it is not theirs"
            assert "may not access" in team.post("/ui/pools/_new", data={**new, "name": "x"}).text
        link = 'href="./pools/by-hand"'
        wait_until(
            lambda: link in page(admin, "/ui/pools"),
            what="viewers share the list for two seconds",
        )
        assert link in page(admin, "/ui/pools")
        assert "by-hand is deleted" in send(admin, f"{path}/delete", {})
        assert link not in page(admin, "/ui/pools"), "the page after a change is not shared"
        assert api.get("/ojs/v1/admin/pools/by-hand").status_code == 404

        def is_recorded() -> bool:
            return "delete a worker pool" in page(admin, "/ui/audit?text=by-hand").lower()

        wait_until(is_recorded, what="the audit has the deletion")


def test_viewers_of_a_pool_share_its_numbers(
    admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[None] = []

    async def noted(*args: Any) -> dict[str, dict[str, int]]:
        reads.append(None)
        return await read_counts(*args)

    monkeypatch.setattr(pools, "read_counts", noted)

    def are_shared() -> bool:
        page(admin, "/ui/pools/back-office")
        before = len(reads)
        page(admin, "/ui/pools/back-office")
        return len(reads) == before

    wait_until(are_shared, what="two views within two seconds read once")


def test_tenants_have_numbers_and_limits_and_lead_to_their_jobs(
    admin: httpx.Client, demo: Demo
) -> None:
    text = page(admin, "/ui/tenants")
    acme = row(text, "acme")
    assert "paid plan" in acme
    assert "of 5,000" in acme
    assert "1,000 per minute" in acme
    assert "of" not in row(text, "globex")
    assert 'href="./tenants/globex"' in text
    search = quote('meta.tenant_id:"globex"', safe="")
    assert f"query={search}" in page(admin, "/ui/tenants/globex")
    found = page(admin, f"/ui/jobs?query={search}")
    assert found.count("<tr data-id=") == 3


def test_limits_of_a_tenant_are_set_removed_and_explained(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:

        def limits() -> dict[str, Any]:
            found: dict[str, Any] = api.get("/ojs/v1/admin/tenants/initech").json()["limits"]
            return found

        body = {"max_scheduled": 3, "max_queue_depth": 8}
        api.put("/ojs/v1/admin/tenants/initech/limits", json=body).raise_for_status()
        path, was = "/ui/tenants/initech/limits", {"was_max_queue_depth": "8"}
        changes = {
            "max_queue_depth": "9",
            "rate": "5",
            "rate_period": "minute",
            "reason": "ticket 7",
        }
        shown = send(admin, path, {**was, **changes})
        assert "The limits of initech are changed" in shown
        assert "ticket 7" in shown
        rate = {"limit": 5, "period": "PT1M"}
        assert limits() == {"max_scheduled": 3, "max_queue_depth": 9, "max_enqueue_rate": rate}
        asked = admin.post(path, data={"max_queue_depth": "0"})
        assert "every new job of this tenant is refused" in asked.text
        assert limits()["max_queue_depth"] == 9, "the page only asks"
        for form, field, words in (
            ({"max_queue_depth": "many"}, "max_queue_depth", "whole number"),
            ({"rate": "5", "rate_period": "x"}, "rate_period", "ISO 8601"),
        ):
            assert words in refused(admin, path, form, field)
        empty = {"was_max_scheduled": "3", "was_rate": "5", "was_rate_period": "minute"}
        send(admin, path, {**empty, **dict.fromkeys(("max_scheduled", "rate", "rate_period"), "")})
        assert limits() == {"max_queue_depth": 9}
        assert "Nothing was changed" in send(admin, path, {})
    with running.browser("viewer-key") as viewer:
        assert "tenants/initech/limits" in page(admin, "/ui/tenants/initech")
        assert "tenants/initech/limits" not in page(viewer, "/ui/tenants/initech")
        assert viewer.post(path, data=changes).status_code == 403
