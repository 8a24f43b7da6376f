"""The forms of a queue: limits, configuration, defaults of new jobs, and deletion."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from ojs_cluster.ui.forms import limits as limit_form
from ojs_cluster.ui.forms.form import Form, number_or_text
from ojs_cluster.ui.visit import Visit

QueueForms = dict[str, Form]
"""The forms of the page of a queue by name."""
FORMS: Final = {
    "limits": Form(),
    "config": Form(),
    "defaults": Form(),
    "purge": Form(),
    "delete": Form(),
}
_CONFIG: Final = ("partitions", "max_depth", "strategy", "on_exhaustion", "fair_share")
CONFIG_FIELDS: Final = {
    "partitions": "partitions",
    "backpressure.max_depth": "max_depth",
    "$.backpressure.max_depth": "max_depth",
    "backpressure.strategy": "strategy",
    "on_exhaustion": "on_exhaustion",
}
"""The field of the form by the path that the API names in an error."""
FAIR_SHARE: Final = "turns"
"""The value of the field ``fair_share`` if tenants take turns; empty otherwise."""
_RETRY: Final = ("max_attempts", "initial_interval", "backoff_coefficient", "max_interval")
_STATES: Final = ("completed", "discarded", "cancelled")
_TIMES: Final = ("default_timeout", "visibility_timeout")
DEFAULT_FIELDS: Final = {
    **{f"default_retry.{name}": name for name in _RETRY},
    **{path: name for name in _TIMES for path in (name, f"$.{name}")},
    **{f"retention.{state}": state for state in _STATES},
}
"""The field of the form of defaults by the path that the API names in an error."""
DELETE_FIELDS: Final = {"strategy": "strategy", "target_queue": "target_queue"}
"""The field of the form that deletes a queue by the path that the API names in an error."""
_is_decimal: Final = re.compile(r"[0-9]{1,7}(\.[0-9]{1,6})?").fullmatch


async def read_settings(visit: Visit, name: str) -> QueueForms:
    """Return the forms with the present settings of a queue."""
    limits = orjson.loads(await visit.get("admin", "queues", name, "rate-limit"))
    config = orjson.loads(await visit.get("admin", "queues", name, "config"))["config"]
    bound = config.get("backpressure", {})
    shown = {
        "partitions": str(config["partitions"]),
        "max_depth": str(bound.get("max_depth", "")),
        "strategy": bound.get("strategy", "reject"),
        "on_exhaustion": config["on_exhaustion"],
        "fair_share": FAIR_SHARE if config.get("fair_share") else "",
    }
    return {
        "limits": Form(limit_form.values_of(limits)),
        "config": Form(was(shown)),
        "defaults": Form(was(_shown_defaults(config))),
    }


def was(shown: dict[str, str]) -> dict[str, str]:
    """Return the texts of fields, and again as hidden fields that tell what has changed."""
    return {**shown, **{f"was_{name}": text for name, text in shown.items()}}


def changed_config(form: Mapping[str, str]) -> dict[str, Any]:
    """Return the members of the configuration that the user has changed.

    Other members are left out. Otherwise a setting of the server would become the queue's own.
    """
    changed = _changed(form, _CONFIG)
    body: dict[str, Any] = {}
    if "partitions" in changed:
        body["partitions"] = number_or_text(changed["partitions"])
    depth = form.get("max_depth", "").strip()
    if "max_depth" in changed or ("strategy" in changed and depth):
        body["backpressure"] = {"max_depth": number_or_text(depth)} if depth else None
    if "strategy" in changed:
        body["backpressure"] = {**(body.get("backpressure") or {}), "strategy": changed["strategy"]}
    if "on_exhaustion" in changed:
        body["on_exhaustion"] = changed["on_exhaustion"] or None
    if "fair_share" in changed:
        body["fair_share"] = changed["fair_share"] == FAIR_SHARE
    return body


def changed_defaults(form: Mapping[str, str], present: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of new jobs that the user has changed; None removes one.

    Args:
        form: the form.
        present: the configuration of the queue. Members of its retry policy that are no fields of
            the form stay.
    """
    body: dict[str, Any] = {}
    if _changed(form, _RETRY):
        policy = dict(present.get("default_retry") or {})
        for name in _RETRY:
            policy.pop(name, None)
        typed = {name: text for name in _RETRY if (text := form.get(name, "").strip())}
        body["default_retry"] = {**policy, **_policy(typed)} if typed else None
    for name, text in _changed(form, _TIMES).items():
        body[name] = number_or_text(text) if text else None
    if _changed(form, _STATES):
        kept = {state: form.get(state, "").strip() for state in _STATES}
        body["retention"] = {state: text for state, text in kept.items() if text} or None
    return body


def _changed(form: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return the texts of those fields that differ from what the page has shown."""
    texts = {name: form.get(name, "").strip() for name in names}
    return {name: text for name, text in texts.items() if text != form.get(f"was_{name}", "")}


def _policy(typed: Mapping[str, str]) -> dict[str, Any]:
    """Return a retry policy; the API explains what is no number."""
    policy: dict[str, Any] = dict(typed)
    if "max_attempts" in typed:
        policy["max_attempts"] = number_or_text(typed["max_attempts"])
    factor = typed.get("backoff_coefficient", "")
    if _is_decimal(factor):
        policy["backoff_coefficient"] = float(factor)
    return policy


def _shown_defaults(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of the fields for the defaults of a queue."""
    policy, kept = config.get("default_retry") or {}, config.get("retention") or {}
    shown = {name: str(policy.get(name, "")) for name in _RETRY}
    shown["backoff_coefficient"] = shown["backoff_coefficient"].removesuffix(".0")
    shown |= {name: str(config.get(name, "")) for name in _TIMES}
    return shown | {state: kept.get(state, "") for state in _STATES}
