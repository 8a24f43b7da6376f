"""What the audit keeps of a change: the changed members, and the values that are no secrets.

Bodies contain secrets, args of jobs and addresses with tokens. So an entry has only the values of
members that this module names; of other members it has the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

import orjson

MAX_BYTES: Final = 1024
"""Maximum size in bytes of the details of an entry, as JSON."""
_MAX_BODY: Final = 64 * 1024
"""Maximum size in bytes of a body that is read for the audit. The loop is not blocked meanwhile."""
_MAX_MEMBERS: Final = 20
_MAX_NAME: Final = 32
_MAX_TEXT: Final = 128  # characters
_MAX_DEPTH: Final = 3
_ABSENT: Final = object()
_NO_SETTINGS: Final = frozenset({"name", "replace", "updated_at"})
"""Members that say what to change, and on which condition."""
_LIMITS: Final = ("concurrency", "rate", "throttle", "period")
_QUEUE: Final = (
    *("partitions", "backpressure", "on_exhaustion", "max_size", "overflow_policy", "concurrency"),
    *("default_retry", "default_timeout", "visibility_timeout", "retention", "fair_share"),
)
_CRON: Final = (
    *("expression", "cron", "schedule", "timezone", "enabled", "overlap_policy", "job_type"),
    *("type", "queue"),
)
SHOWN: Final[Mapping[str, frozenset[str]]] = {
    action: frozenset(names)
    for action, names in {
        "cron.change": _CRON,
        "cron.register": _CRON,
        "job.edit": ("priority", "max_attempts", "timeout_ms", "scheduled_at", "expires_at"),
        "job.move": ("queue",),
        "mark.add": ("at",),
        "pool.set": ("strategy", "queues", "weights"),
        "queue.configure": (*_QUEUE, "config"),
        "queue.create": (*_QUEUE, "config"),
        "queue.limit": _LIMITS,
        "rate_limit.override": (*_LIMITS, "limit", "expires_at"),
        "schema.configure": ("mode", "compatibility"),
        "system.maintenance": ("enabled", "refuse", "reason", "duration", "estimated_duration"),
        "tenant.set": ("limits", "fairness_weight"),
        "tenant.set_limits": (
            *("max_queue_depth", "max_scheduled", "max_enqueue_rate", "fairness_weight", "reason"),
        ),
        "webhook.change": ("events", "active"),
        "webhook.create": ("events", "active"),
    }.items()
}
"""The members of bodies whose values entries have, by the action of the route."""


def details_of(action: str, body: bytes, old: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the changed members by their names, each with its ``old`` and ``new`` value.

    A value that is not shown is left out, and so are the largest values of more than ``MAX_BYTES``
    together. A body that is no JSON object, or that is larger than 64 KiB, has no details.

    A member that has not changed is left out.

    Args:
        action: the action of the route.
        body: the body of the request.
        old: the values before the change, as far as the handler knows them. A member that the body
            lacks is one that the change has removed.
    """
    shown = SHOWN.get(action)
    if shown is None or not 0 < len(body) <= _MAX_BODY:
        return {}
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(given, dict):
        return {}
    details: dict[str, dict[str, Any]] = {}
    settings = {name: None for name in (*given, *(old or {})) if name not in _NO_SETTINGS}
    for name in islice(settings, _MAX_MEMBERS):
        values = {"old": old, "new": given} if name in shown else {}
        changed = {
            when: _short(members[name], _MAX_DEPTH)
            for when, members in values.items()
            if members is not None and name in members
        }
        if "old" not in changed or changed["old"] != changed.get("new", _ABSENT):
            details[name.encode("ascii", "backslashreplace").decode()[:_MAX_NAME]] = changed
    sizes = {name: len(orjson.dumps(changed)) for name, changed in details.items()}
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if len(orjson.dumps(details)) <= MAX_BYTES:
            break
        details[name] = {}
    return details


def _short(value: Any, depth: int) -> Any:
    """Return a JSON value whose texts, lists and objects are cut at their maximum."""
    if isinstance(value, str):
        if not value.isprintable():
            value = value.encode("unicode_escape").decode("ascii")
        return value if len(value) <= _MAX_TEXT else value[: _MAX_TEXT - 1] + "…"
    if isinstance(value, (dict, list, tuple)) and depth == 0:
        return "…"
    if isinstance(value, dict):
        members = islice(value.items(), _MAX_MEMBERS)
        return {_short(name, depth): _short(each, depth - 1) for name, each in members}
    if isinstance(value, (list, tuple)):
        return [_short(each, depth - 1) for each in value[:_MAX_MEMBERS]]
    return value
