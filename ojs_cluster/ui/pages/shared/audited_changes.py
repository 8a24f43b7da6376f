"""The changed settings of an audit entry, as the other pages show these settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from zoneinfo import ZoneInfo

from ojs_cluster.core.durations import parse_duration_ms
from ojs_cluster.ui.formats import NONE, duration, exact_time, number
from ojs_cluster.ui.forms.limits import per_period
from ojs_cluster.ui.languages.translate import _, later

_LABELS: Final = {
    "backoff_coefficient": later("Factor of each wait"),
    "cancelled": later("Cancelled"),
    "completed": later("Completed"),
    "concurrency": later("Jobs at the same time"),
    "cron": later("Schedule"),
    "default_retry": later("Retries"),
    "default_timeout": later("Timeout"),
    "discarded": later("Discarded"),
    "events": later("Events"),
    "expires_at": later("Ends at"),
    "expression": later("Schedule"),
    "fair_share": later("Order of the jobs of several tenants"),
    "fairness_weight": later("Weight"),
    "initial_interval": later("First wait"),
    "job_type": later("Job type"),
    "max_attempts": later("Attempts"),
    "max_depth": later("Maximum number of waiting jobs"),
    "max_enqueue_rate": later("New jobs"),
    "max_interval": later("Longest wait"),
    "max_queue_depth": later("Waiting jobs"),
    "max_scheduled": later("Scheduled jobs"),
    "max_size": later("Maximum number of waiting jobs"),
    "on_exhaustion": later("After the last attempt"),
    "overflow_policy": later("When the queue is full"),
    "overlap_policy": later("If the last run has not ended"),
    "partitions": later("Partitions"),
    "priority": later("Priority"),
    "queue": later("Queue"),
    "queues": later("Queues"),
    "rate": later("Starts"),
    "reason": later("Reason"),
    "retention": later("Keep ended jobs for"),
    "schedule": later("Schedule"),
    "strategy": later("Strategy"),
    "throttle": later("Evenly spaced starts"),
    "timeout_ms": later("Timeout"),
    "timezone": later("Time zone"),
    "type": later("Job type"),
    "visibility_timeout": later("Lease"),
    "weights": later("Weight"),
}
"""The labels of members, as the forms of the dashboard have them. Others keep their names."""
_CONTAINERS: Final = frozenset({"backpressure", "config", "limits"})
"""Members whose own members are the settings."""
_WHOLE: Final = frozenset({"config", "limits"})
"""Those that a change replaces as a whole. Other objects have defaults for what they lack."""
_FULL: Final = {
    "reject": later("Refuse new jobs"),
    "block": later("Let clients wait for room"),
    "drop_oldest": later("Discard the oldest available jobs"),
}
_WORDS: Final = {
    "on_exhaustion": {
        "discard": later("Discard the job"),
        "dead_letter": later("Keep it as a dead letter"),
    },
    "overflow_policy": _FULL,
    "backpressure.strategy": _FULL,
    "overlap_policy": {
        "skip": later("skip this run"),
        "allow": later("run both"),
        "cancel_previous": later("cancel the last run"),
        "enqueue": later("wait until it has ended"),
    },
}
"""The words for the values of members, by the name of the member, or by that of its object too."""
_MAPS: Final = frozenset({"queues", "weights"})
"""Members whose own members are names."""
_SECONDS: Final = frozenset({"default_timeout", "visibility_timeout"})
_DURATIONS: Final = frozenset(
    {
        *("period", "duration", "estimated_duration", "initial_interval", "max_interval"),
        *("completed", "discarded", "cancelled", "retention"),
    }
)
_TIMES: Final = frozenset({"at", "expires_at", "scheduled_at"})


@dataclass(frozen=True, slots=True)
class AuditedChange:
    """One changed setting.

    Attributes:
        label: what it is called on the other pages, or the name of the member.
        is_name: whether the label is the name of a member.
        old: its value before, in words; empty if it is not known.
        new: its value now, in words; empty if it is not known.
    """

    label: str
    is_name: bool
    old: str
    new: str


def changes_of(entry: Mapping[str, Any], zone: ZoneInfo | None) -> list[AuditedChange]:
    """Return the settings that a change has named.

    Args:
        entry: the entry of the audit.
        zone: the time zone of times; None for UTC.
    """
    details = entry.get("details")
    if not isinstance(details, dict):
        return []
    return [
        change
        for name, values in details.items()
        if isinstance(values, dict)
        for change in _changes((str(name),), values, zone)
    ]


def _changes(
    path: tuple[str, ...], values: Mapping[str, Any], zone: ZoneInfo | None
) -> Iterator[AuditedChange]:
    """Yield the change of a member, or those of its own members if it is an object."""
    known = [value for value in values.values() if value is not None]
    if _have_members(path, known):
        inner = {name: None for value in known for name in value}
        for name in inner:
            new = values.get("new")
            if new is not None and name not in new and path[-1] not in _WHOLE:
                continue
            parts = {when: (value or {}).get(name) for when, value in values.items()}
            if len(parts) < 2 or parts["old"] != parts["new"]:
                yield from _changes((*path, str(name)), parts, zone)
        return
    # A body that lacks a member, or has null for it, removes the setting.
    if not values:
        label, is_name = _label(path)
        yield AuditedChange(label, is_name, "", _("not recorded"))
        return
    removed = "old" in values or values.get("new", "") is None
    new = values.get("new")
    shown = _words(path, new, zone) if new is not None else _("removed") if removed else ""
    old = values.get("old")
    label, is_name = _label(path)
    yield AuditedChange(label, is_name, "" if old is None else _words(path, old, zone), shown)


def _have_members(path: tuple[str, ...], known: Sequence[Any]) -> bool:
    """Return whether the values are objects whose members are shown one by one."""
    return (
        path[-1] not in _MAPS
        and any(known)
        and all(isinstance(value, dict) and not _is_rate(value) for value in known)
    )


def _is_rate(value: Mapping[str, Any]) -> bool:
    return set(value) == {"limit", "period"}


def _label(path: tuple[str, ...]) -> tuple[str, bool]:
    """Return the label of a member, and whether it is only its name."""
    full = ".".join(path[-2:])
    if full == "backpressure.strategy":
        return _(_LABELS["overflow_policy"]), False
    parts = [name for name in path if name not in _CONTAINERS] or list(path)
    known = [_(_LABELS[name]) if name in _LABELS else name for name in parts]
    return ": ".join(known), not any(name in _LABELS for name in parts)


def _words(path: tuple[str, ...], value: Any, zone: ZoneInfo | None) -> str:
    """Return a value as the other pages show it."""
    name = path[-1]
    if isinstance(value, bool):
        if name == "fair_share":
            return _("Tenants take turns") if value else _("The order of the queue")
        return _("on") if value else _("off")
    if isinstance(value, (int, float)):
        if name in _SECONDS:
            return duration(value * 1000)
        return duration(value) if name.endswith("_ms") else number(value)
    if isinstance(value, dict):
        if _is_rate(value):
            limit = _words(("limit",), value["limit"], zone)
            return _("%(number)s %(per)s", number=limit, per=per_period(str(value["period"])))
        shown = (f"{each} {_words((name,), v, zone)}" if v else each for each, v in value.items())
        return ", ".join(shown) or NONE
    if isinstance(value, list):
        return ", ".join(_words((name,), each, zone) for each in value) or NONE
    text = str(value)
    named = _WORDS.get(".".join(path[-2:])) or _WORDS.get(name) or {}
    if text in named:
        return _(named[text])
    if name in _DURATIONS:
        return _or_text(lambda: duration(parse_duration_ms(text)), text)
    return (exact_time(text, zone) if name in _TIMES else text) or NONE


def _or_text(shown: Callable[[], str], text: str) -> str:
    try:
        return shown()
    except ValueError:
        return text or NONE
