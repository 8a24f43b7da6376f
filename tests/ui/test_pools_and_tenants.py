"""The pages of worker pools and of tenants: their numbers, and who sees them."""

from __future__ import annotations

from urllib.parse import quote

import httpx

from tests.ui.dashboard import Running
from tests.ui.demo import Demo
from tests.ui.html import parse
from tests.ui.test_pages import page


def row(text: str, name: str) -> str:
    """Return the text of the row that has a name."""
    rows = text.partition("<tbody>")[2].split("</tr>")
    shown = [" ".join(parse(each.partition("<tr>")[2]).text.split()) for each in rows]
    return next(words for words in shown if name in words)


def test_pools_have_their_queues_with_weights_and_jobs(admin: httpx.Client, demo: Demo) -> None:
    text = page(admin, "/ui/pools")
    assert "4 jobs by 1 fetch since" in " ".join(parse(text).text.split())
    assert "weighted: by weight" in text
    assert row(text, "back-office").endswith("billing 3 3 75 % 75 %")
    assert row(text, "exports") == "exports 1 1 25 % 25 %"
    assert 'href="./queues/billing"' in text


def test_a_key_for_some_queues_sees_pools_of_these_only(running: Running, demo: Demo) -> None:
    with running.api() as api:
        api.put("/ojs/v1/admin/pools/mail", json={"queues": ["email"]}).raise_for_status()
        with running.browser("email-key") as client:
            text = page(client, "/ui/pools")
        assert "back-office" not in text
        assert "mail" in parse(text).text
        assert 'href="./tenants"' not in text, "a tenant has jobs in any queues"
        api.delete("/ojs/v1/admin/pools/mail").raise_for_status()


def test_tenants_have_numbers_and_limits_and_lead_to_their_jobs(
    admin: httpx.Client, demo: Demo
) -> None:
    text = page(admin, "/ui/tenants")
    acme = row(text, "acme")
    assert "paid plan" in acme
    assert "of 5,000" in acme
    assert "1,000 per minute" in acme
    assert "of" not in row(text, "globex")
    search = quote('meta.tenant_id:"globex"', safe="")
    assert f"query={search}" in text
    found = page(admin, f"/ui/jobs?query={search}")
    assert found.count("<tr data-id=") == 3
