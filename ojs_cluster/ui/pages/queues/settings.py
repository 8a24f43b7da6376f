"""The forms of a queue: limits, configuration, and removal of its waiting jobs."""

from __future__ import annotations

from typing import Any, Final

import orjson

from ojs_cluster.ui.forms import limits as limit_form
from ojs_cluster.ui.forms.form import Form, number_or_text
from ojs_cluster.ui.visit import Visit

QueueForms = dict[str, Form]
"""The forms of the page of a queue by name."""
FORMS: Final = {"limits": Form(), "config": Form(), "purge": Form()}
CONFIG_FIELDS: Final = {
    "partitions": "partitions",
    "backpressure.max_depth": "max_depth",
    "$.backpressure.max_depth": "max_depth",
    "on_exhaustion": "on_exhaustion",
}
"""The field of the form by the path that the API names in an error."""


async def read_settings(visit: Visit, name: str) -> QueueForms:
    """Return the forms with the present settings of a queue."""
    limits = orjson.loads(await visit.get("admin", "queues", name, "rate-limit"))
    config = orjson.loads(await visit.get("admin", "queues", name, "config"))["config"]
    shown = {
        "partitions": str(config["partitions"]),
        "max_depth": str(config.get("backpressure", {}).get("max_depth", "")),
        "on_exhaustion": config["on_exhaustion"],
    }
    return {"limits": Form(limit_form.values_of(limits)), "config": Form(was(shown))}


def was(shown: dict[str, str]) -> dict[str, str]:
    """Return the texts of fields, and again as hidden fields that tell what has changed."""
    return {**shown, **{f"was_{name}": text for name, text in shown.items()}}


def changed_config(form: dict[str, str]) -> dict[str, Any]:
    """Return the members of the configuration that the user has changed.

    Other members are left out. Otherwise a setting of the server would become the queue's own.
    """
    changed = {
        name: form.get(name, "").strip()
        for name in ("partitions", "max_depth", "on_exhaustion")
        if form.get(name, "").strip() != form.get(f"was_{name}", "")
    }
    body: dict[str, Any] = {}
    if "partitions" in changed:
        body["partitions"] = number_or_text(changed["partitions"])
    if "max_depth" in changed:
        depth = changed["max_depth"]
        body["backpressure"] = {"max_depth": number_or_text(depth)} if depth else None
    if "on_exhaustion" in changed:
        body["on_exhaustion"] = changed["on_exhaustion"] or None
    return body
