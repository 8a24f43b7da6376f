"""The bytes of ojs-cli and the admin UI about maintenance mode, and what they can decode."""

from __future__ import annotations

from tests.clients import test_admin_ui, test_cli
from tests.clients.wire import Wire


# ojs-cli, cmd/ojs/commands/system.go:37 (status) and :74 (change).
async def test_the_cli_switches_maintenance_mode(wire: Wire) -> None:
    found = await test_cli.call(wire, "GET", "/admin/maintenance")
    assert found["enabled"] is False
    await test_cli.call(wire, "POST", "/admin/maintenance", {"enabled": True, "reason": "why"})
    found = await test_cli.call(wire, "GET", "/admin/maintenance")
    assert (found["enabled"], found["reason"]) == (True, "why")
    assert isinstance(found["started_at"], str)
    await test_cli.call(wire, "POST", "/admin/maintenance", {"enabled": False})


# ojs-admin-ui, src/api/client.ts:365 and src/api/types.ts:373 (MaintenanceStatus). The dialog of
# src/pages/SettingsPage.tsx:141 leaves out what the user has not entered.
async def test_the_admin_ui_switches_maintenance_mode(wire: Wire) -> None:
    path = "/ojs/v1/admin/system/maintenance"
    body = b'{"enabled":true,"reason":"why"}'
    answer = await test_admin_ui.call(wire, "POST", path, body)
    assert (answer.status, answer.json["enabled"], answer.json["reason"]) == (200, True, "why")
    answer = await test_admin_ui.call(wire, "GET", path)
    assert isinstance(answer.json["started_at"], str)
    answer = await test_admin_ui.call(wire, "POST", path, b'{"enabled":false}')
    assert (answer.status, answer.json["enabled"]) == (200, False)
