"""The routes of schemas of the fake server, which stores them and validates nothing."""

from __future__ import annotations

from typing import Any

from ojs_client.testing.calls import Call, Reply, Route
from ojs_client.testing.refusals import conflict, not_found


def schema_routes() -> list[Route]:
    """Return the routes of schemas."""
    stored: dict[str, dict[str, Any]] = {}

    async def register(call: Call) -> Reply:
        key = f"{call.body['type']}/{call.body['version']}"
        if key in stored:
            raise conflict(f"the schema '{key}' is registered already")
        stored[key] = {name: call.body[name] for name in ("type", "version", "schema")}
        return 201, {"schema": stored[key]}

    async def get(call: Call) -> Reply:
        if call.id not in stored:
            raise not_found("schema", call.id)
        return 200, {"schema": stored[call.id]}

    return [("POST", "/schemas", register), ("GET", "/schemas/(.+/.+)", get)]
