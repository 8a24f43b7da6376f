"""The bytes of the admin UI, as a browser sends them."""

from __future__ import annotations

from tests.clients.wire import Answer, Wire


# ojs-admin-ui, src/api/client.ts:46: the headers of every request; the rest is the browser's.
async def call(wire: Wire, method: str, path: str, body: bytes | None = None) -> Answer:
    headers = {
        "Connection": "keep-alive",
        "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/131.0.0.0",
        "Content-Type": "application/json",
        "Accept": "*/*",
        "Sec-Fetch-Site": "same-origin",
        "Sec-Fetch-Mode": "cors",
        "Accept-Encoding": "gzip, deflate, br, zstd",
        "Accept-Language": "en-US,en;q=0.9",
    }
    return await wire.send(method, path, headers, body)


# ojs-admin-ui, src/components/shell/Sidebar.tsx:12: the menu entry needs the capability "cron".
# src/api/manifest.ts:6 (hasExtension) reads both forms, src/pages/SettingsPage.tsx:30 shows the
# versions of the object.
async def test_the_manifest_shows_the_menu_of_cron_jobs(wire: Wire) -> None:
    manifest = (await call(wire, "GET", "/ojs/manifest")).json
    assert manifest["capabilities"]["cron"] is True
    assert manifest["capabilities"]["cron_jobs"] is True
    extensions = {each["name"]: each["version"] for each in manifest["extensions"]["official"]}
    assert extensions == {"admin-api": "1.0.0", "backpressure": "1.0.0"}


# ojs-admin-ui, src/api/client.ts:267 (the request) and src/api/types.ts:257 (PriorityStats).
async def test_the_jobs_of_a_queue_are_shown_by_priority(wire: Wire) -> None:
    for priority in (b"0", b"50", b"50"):
        job = b'{"type":"t","args":[],"options":{"queue":"mail","priority":%b}}' % priority
        assert (await call(wire, "POST", "/ojs/v1/jobs", job)).status == 201

    shown = await call(wire, "GET", "/ojs/v1/queues/mail/priority-stats")

    assert shown.json["queue"] == "mail"
    assert shown.json["distribution"] == [
        {"priority": 50, "count": 2},
        {"priority": 0, "count": 1},
    ]
