"""Uniqueness policies (spec: ojs-unique-jobs): validation, canonical form, conflicts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from ojs_cluster.core.durations import MAX_DURATION_MS, format_duration, parse_duration_ms
from ojs_cluster.core.errors import ValidationFailed
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.core.raw_json import show

DIMENSIONS: Final = ("type", "queue", "args", "meta")
DEFAULT_STATES: Final = (
    State.AVAILABLE,
    State.ACTIVE,
    State.SCHEDULED,
    State.RETRYABLE,
    State.PENDING,
)
ON_CONFLICT: Final[Mapping[str, str]] = {
    "reject": "reject",
    "replace": "replace",
    "replace_except_schedule": "replace_except_schedule",
    "ignore": "ignore",
    "use_existing": "ignore",
}
_MAX_ENTRIES: Final = 100
_MAX_LENGTH: Final = 255
_GO_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_GO_UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}


@dataclass(frozen=True, slots=True)
class UniquePolicy:
    """Which jobs count as the same, for how long, and what happens on a conflict.

    Args:
        keys: dimensions of the fingerprint, some of ``DIMENSIONS``.
        args_keys: members of args that are compared, () for all.
        meta_keys: members of meta that are compared.
        custom_key: key that the producer chose, None if it chose none. The fingerprint contains the
            key instead of args.
        period_ms: a job that was created at least this long ago, in ms, does not conflict. None if
            jobs of any age conflict.
        states: states in which a job conflicts.
        on_conflict: what happens to the new job, a value of ``ON_CONFLICT``.
    """

    keys: tuple[str, ...] = ("type",)
    args_keys: tuple[str, ...] = ()
    meta_keys: tuple[str, ...] = ()
    custom_key: str | None = None
    period_ms: int | None = None
    states: tuple[State, ...] = DEFAULT_STATES
    on_conflict: str = "reject"

    def conflicts(self, state: str, age_ms: int) -> bool:
        """Return whether a job in ``state``, created ``age_ms`` ago, conflicts with a new job."""
        return state in self.states and (self.period_ms is None or age_ms < self.period_ms)

    @property
    def conflicts_after_end(self) -> bool:
        """Whether a job may conflict after its end."""
        return not TERMINAL.isdisjoint(self.states)

    def json(self) -> bytes:
        """Return the policy as a JSON object in canonical form."""
        policy: dict[str, Any] = {"keys": self.keys}
        if self.custom_key is not None:
            policy["key"] = self.custom_key
        if self.args_keys:
            policy["args_keys"] = self.args_keys
        if self.meta_keys:
            policy["meta_keys"] = self.meta_keys
        if self.period_ms is not None:
            policy["period"] = format_duration(self.period_ms)
        policy["states"] = self.states
        policy["on_conflict"] = self.on_conflict
        return orjson.dumps(policy)


UNIQUE_MEMBERS: Final = frozenset(
    {
        *("keys", "key", "args_keys", "meta_keys", "period", "period_ms", "within"),
        *("states", "on_conflict"),
    }
)
"""The members that ``parse_unique`` reads. Others are ignored."""


def parse_unique(values: Mapping[str, Any], *, path: str = "options.unique") -> UniquePolicy:
    """Parse a uniqueness policy. Null fields count as absent.

    Args:
        values: the decoded JSON object.
        path: path of the object, for errors.

    Raises:
        ValidationFailed: a value is not valid; ``details.field`` names it.
    """
    keys_name = "keys" if values.get("keys") is not None else "key"
    keys = values.get(keys_name)
    custom = None
    args_keys = _names(values, path, "args_keys")
    if isinstance(keys, str) and keys_name == "key":
        if not 1 <= len(keys) <= _MAX_LENGTH:
            raise _rejected(path, "key", f"must have 1 to {_MAX_LENGTH} characters")
        custom, keys = keys, None
    elif keys_name == "key" and keys is not None:
        # The JavaScript and Go SDKs document ``key`` as names of arguments, the Python SDK as
        # dimensions. So a name that is no dimension counts as the name of an argument.
        names = _names(values, path, "key")
        keys = [name for name in names if name in DIMENSIONS] or None
        args_keys = tuple(dict.fromkeys((*args_keys, *(n for n in names if n not in DIMENSIONS))))
    dimensions = _choices(keys, DIMENSIONS, path, keys_name)
    policy = UniquePolicy(
        # The type is always part of the fingerprint (spec).
        keys=("type", *(key for key in dimensions if key != "type")),
        args_keys=args_keys,
        meta_keys=_names(values, path, "meta_keys"),
        custom_key=custom,
        period_ms=_period(values, path),
        states=tuple(
            State(name) for name in _choices(values.get("states"), tuple(State), path, "states")
        )
        or DEFAULT_STATES,
        on_conflict=_on_conflict(values, path),
    )
    if "meta" in policy.keys and not policy.meta_keys:
        raise _rejected(path, "meta_keys", "must name at least one key when keys has 'meta'")
    return policy


def _rejected(path: str, name: str, rule: str) -> ValidationFailed:
    return ValidationFailed(f"unique.{name} {rule}", field=f"{path}.{name}")


def _choices(value: object, allowed: tuple[str, ...], path: str, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value or not all(entry in allowed for entry in value):
        raise _rejected(
            path, name, f"must be an array of some of {', '.join(allowed)}, not {show(value)}"
        )
    return tuple(dict.fromkeys(value))


def _names(values: Mapping[str, Any], path: str, name: str) -> tuple[str, ...]:
    value = values.get(name)
    if value is None:
        return ()
    if (
        not isinstance(value, list)
        or not 1 <= len(value) <= _MAX_ENTRIES
        or not all(isinstance(entry, str) and 1 <= len(entry) <= _MAX_LENGTH for entry in value)
    ):
        raise _rejected(path, name, f"must be an array of names, not {show(value)}")
    return tuple(dict.fromkeys(value))


def _period(values: Mapping[str, Any], path: str) -> int | None:
    """Return the period in ms: ``period``, else ``period_ms`` of the Go SDK, else ``within``."""
    given = (name for name in ("period", "period_ms", "within") if values.get(name) is not None)
    name = next(given, None)
    if name is None:
        return None
    value = values[name]
    if name == "period_ms":
        # JSON's true is an int in Python.
        if type(value) is not int or not 1 <= value <= MAX_DURATION_MS:
            raise _rejected(
                path, name, f"must be an integer from 1 to {MAX_DURATION_MS}, not {show(value)}"
            )
        return value
    if not isinstance(value, str):
        raise _rejected(path, name, f"must be an ISO 8601 duration, not {show(value)}")
    if name == "within" and (ms := _go_duration_ms(value)) is not None:
        return ms
    try:
        return parse_duration_ms(value)
    except ValueError as error:
        raise _rejected(path, name, str(error)) from None


def _go_duration_ms(text: str) -> int | None:
    """Return the length in ms of a Go duration such as ``1h30m``; None if ``text`` is none.

    The OJS command line client sends ``within`` in this form.
    """
    parts = _GO_PART.findall(text) if len(text) <= 64 else []
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    ms = round(sum(float(number) * _GO_UNIT_MS[unit] for number, unit in parts))
    return ms if 1 <= ms <= MAX_DURATION_MS else None


def _on_conflict(values: Mapping[str, Any], path: str) -> str:
    value = values.get("on_conflict")
    if value is None:
        return "reject"
    known = ON_CONFLICT.get(value) if isinstance(value, str) else None
    if known is None:
        raise _rejected(
            path, "on_conflict", f"must be one of {', '.join(ON_CONFLICT)}, not {show(value)}"
        )
    return known
