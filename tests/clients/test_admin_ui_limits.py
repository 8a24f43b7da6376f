"""The bytes of the admin UI's pages of rate limits and workflows."""

from __future__ import annotations

from typing import Any

from tests.clients.test_admin_ui import call
from tests.clients.test_admin_ui_pages import send
from tests.clients.wire import Wire

LIMITS = "/ojs/v1/rate-limits"


async def declare(wire: Wire, **limits: Any) -> None:
    """Enqueue a job that declares the limits of the key ``api``."""
    options = {"rate_limit": {"key": "api", **limits}}
    await send(wire, "POST", "/ojs/v1/jobs", {"type": "t", "args": [], "options": options})


# ojs-admin-ui, src/components/rate-limits/RateLimitTable.tsx:59 (limit, period) and :70 (override),
# src/api/client.ts:243 (the body; JSON.stringify leaves out an undefined expires_at).
async def test_a_limit_is_shown_and_overridden(wire: Wire) -> None:
    await declare(wire, rate={"limit": 100, "period": "PT1M"})
    listed = await send(wire, "GET", f"{LIMITS}?page=1&per_page=50")
    [shown] = listed["items"]
    assert (shown["key"], shown["limit"], shown["period"]) == ("api", 100, "PT1M")
    assert (shown["active"], shown["waiting"], listed["pagination"]["total"]) == (0, 0, 1)
    # src/components/rate-limits/RateLimitTable.tsx:14: the period is '1m' unless the operator
    # types another one.
    changed = await send(wire, "PUT", f"{LIMITS}/api", {"limit": 5, "period": "1m"})
    assert (changed["limit"], changed["period"]) == (5, "PT1M")
    assert changed["rate"]["limit"] == 5
    assert (changed["override"]["limit"], changed["override"]["period"]) == (5, "PT1M")
    await send(wire, "DELETE", f"{LIMITS}/api/override")
    assert (await send(wire, "GET", f"{LIMITS}/api"))["limit"] == 100


# ojs-admin-ui, src/components/rate-limits/RateLimitTable.tsx:79: the form starts with the limit and
# the period that are shown.
async def test_a_concurrency_has_no_period(wire: Wire) -> None:
    await declare(wire, concurrency=3)
    shown = await send(wire, "GET", f"{LIMITS}/api")
    assert (shown["limit"], shown["period"]) == (3, "")
    changed = await send(wire, "PUT", f"{LIMITS}/api", {"limit": 2, "period": shown["period"]})
    assert (changed["limit"], changed["concurrency"]["limit"]) == (2, 2)


# ojs-admin-ui, src/api/client.ts:243: the body, with a limit that is no number.
async def test_an_override_needs_a_valid_limit(wire: Wire) -> None:
    body = b'{"limit":"many","period":"1m"}'
    assert (await call(wire, "PUT", f"{LIMITS}/api", body)).status == 422


# ojs-admin-ui, src/pages/WorkflowsPage.tsx:35 (the request) and :12 (the states of its menu).
async def test_workflows_are_filtered_by_state(wire: Wire) -> None:
    chain = {"type": "chain", "name": "n", "steps": [{"type": "t", "args": []}]}
    ids = [(await send(wire, "POST", "/ojs/v1/workflows", chain))["id"] for _ in range(4)]
    await send(wire, "POST", f"/ojs/v1/workflows/{ids[0]}/cancel")

    async def page(query: str) -> tuple[list[str], Any]:
        found = await send(wire, "GET", f"/ojs/v1/workflows?{query}&per_page=25")
        return [workflow["id"] for workflow in found["items"]], found["pagination"]

    assert set((await page("page=1"))[0]) == set(ids)
    listed, pages = await page("state=active&page=1")
    assert (set(listed), pages["total"], pages["page"]) == (set(ids[1:]), 3, 1)
    assert (await page("state=cancelled&page=1"))[0] == [ids[0]]
    for state in ("pending", "completed", "failed"):
        listed, pages = await page(f"state={state}&page=1")
        assert (listed, pages["total"], pages["has_more"]) == ([], 0, False)
    first = await send(wire, "GET", "/ojs/v1/workflows?state=active&page=1&per_page=2")
    second = await send(wire, "GET", "/ojs/v1/workflows?state=active&page=2&per_page=2")
    assert (first["pagination"]["total"], first["pagination"]["has_more"]) == (3, True)
    exact = (await send(wire, "GET", "/ojs/v1/workflows?state=active&per_page=3"))["pagination"]
    assert (exact["total"], exact["has_more"]) == (3, False), "the cancelled one does not count"
    found = [workflow["id"] for workflow in first["items"] + second["items"]]
    assert sorted(found) == sorted(ids[1:])
    assert (await call(wire, "GET", "/ojs/v1/workflows?state=odd")).status == 400
