"""Defaults of a queue for the options of its new jobs (spec: ojs-queue-config 6.2, 6.3 and 7.3).

A default applies to a job that does not have the option itself. It becomes a part of the job when
the job is stored, so a later change of the default does not touch jobs that are already stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, Final

import msgspec

from ojs_cluster.core.durations import MAX_DURATION_MS, parse_duration_ms
from ojs_cluster.core.errors import InvalidRequest, ValidationFailed
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.retry import DEFAULT_RETRY, RetryPolicy, parse_retry
from ojs_cluster.core.raw_json import show

MEMBERS: Final = ("default_retry", "default_timeout", "visibility_timeout", "retention")
"""Members of a queue's configuration that are defaults of its jobs."""
POLICY: Final = "_default"
"""Name of the policy for queues without defaults of their own. It is no name of a queue."""
MAX_RETRY_BYTES: Final = 2048
"""Maximum size of a default retry policy as JSON. Every new job of the queue stores a copy."""
_STATES: Final = ("completed", "discarded", "cancelled")
_MIN_RETENTION_MS: Final = 1000


class QueueDefaults(msgspec.Struct, frozen=True, omit_defaults=True):
    """The defaults of a queue, None for those of the server. The store keeps them as JSON.

    Args:
        default_retry: the retry policy as a JSON object in canonical form.
        default_timeout: execution timeout in seconds.
        visibility_timeout: visibility timeout in seconds.
        retention: ISO 8601 durations by the final state of a job. States may be missing.
    """

    default_retry: dict[str, Any] | None = None
    default_timeout: int | None = None
    visibility_timeout: int | None = None
    retention: dict[str, str] | None = None

    @property
    def empty(self) -> bool:
        """Whether the queue has no defaults of its own."""
        return self == _NONE

    def shown(self) -> dict[str, Any]:
        """Return the members of the queue's configuration."""
        members: dict[str, Any] = msgspec.to_builtins(self)
        return members


_NONE: Final = QueueDefaults()
encode: Final = msgspec.json.encode
_decoder: Final = msgspec.json.Decoder(QueueDefaults)


def layered(own: QueueDefaults, policy: QueueDefaults) -> QueueDefaults:
    """Return the defaults of a queue, with the policy where it has none (spec: 7.2).

    Args:
        own: the queue's own defaults.
        policy: the policy ``_default``. Its retention holds for each final state by itself.
    """
    retention = {**(policy.retention or {}), **(own.retention or {})}
    members = {**policy.shown(), **own.shown()}
    return QueueDefaults(**{**members, "retention": retention or None})


def decode(record: bytes) -> QueueDefaults:
    """Return stored defaults, checked as those of a request.

    Raises:
        ValueError: the record is damaged.
    """
    found = _decoder.decode(record)
    try:
        return changed(_NONE, found.shown())
    except (InvalidRequest, ValidationFailed) as error:
        raise ValueError(error.message) from None


def changed(defaults: QueueDefaults, members: Mapping[str, Any]) -> QueueDefaults:
    """Return defaults with changes.

    Args:
        defaults: the present defaults.
        members: the new value of each member that changes; None to remove it.

    Raises:
        InvalidRequest: a member has a wrong form.
        ValidationFailed: a member of the retry policy is not valid.
    """
    checks = {
        "default_retry": _retry,
        "default_timeout": _seconds,
        "visibility_timeout": _seconds,
        "retention": _retention,
    }
    values = {
        name: None if value is None else checks[name](name, value)
        for name, value in members.items()
    }
    return msgspec.structs.replace(defaults, **values)


def _retry(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} must be an object, not {show(value)}", field=name)
    policy = parse_retry(value, path=name).json()
    if len(policy) > MAX_RETRY_BYTES:
        raise InvalidRequest(
            f"{name} has at most {MAX_RETRY_BYTES} bytes, not {len(policy)}, because every job of "
            "the queue stores a copy",
            field=name,
        )
    canonical: dict[str, Any] = msgspec.json.decode(policy)
    return canonical


def _seconds(name: str, value: Any) -> int:
    # Not isinstance: a JSON true would pass as the integer 1.
    if type(value) is not int or not 1 <= value * 1000 <= MAX_DURATION_MS:
        raise InvalidRequest(
            f"{name} must be an integer of seconds from 1 to ten years, not {show(value)}",
            field=name,
        )
    return int(value)


def _retention(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not value:
        raise InvalidRequest(
            f"{name} must be an object with durations by state, not {show(value)}", field=name
        )
    found: dict[str, str] = {}
    for state, text in value.items():
        path = f"{name}.{state[:100]}"
        if state not in _STATES:
            raise InvalidRequest(f"{name} has the members {', '.join(_STATES)}", field=path)
        try:
            duration_ms = parse_duration_ms(text) if isinstance(text, str) else 0
        except ValueError as error:
            raise InvalidRequest(f"{path} {error}", field=path) from None
        if not _MIN_RETENTION_MS <= duration_ms <= MAX_DURATION_MS:
            raise InvalidRequest(
                f"{path} must be an ISO 8601 duration from 1 second to ten years, not {show(text)}",
                field=path,
            )
        found[state] = text
    return {state: found[state] for state in _STATES if state in found}


class JobDefaults:
    """The defaults of a queue, ready to be applied to its jobs.

    Args:
        defaults: the defaults.
    """

    __slots__ = ("_retention", "_retry", "_retry_member", "_timeout_s", "_visibility_s")

    def __init__(self, defaults: QueueDefaults) -> None:
        self._retry: RetryPolicy | None = None
        if defaults.default_retry is not None:
            self._retry = parse_retry(defaults.default_retry)
            self._retry_member = b',"retry":' + self._retry.json()
        self._timeout_s = defaults.default_timeout
        self._visibility_s = defaults.visibility_timeout
        durations = defaults.retention or {}
        self._retention = ":".join(
            str(parse_duration_ms(durations[state])) if state in durations else ""
            for state in _STATES
        ).rstrip(":")

    def kept_ms(self, state: str) -> float:
        """Return how long in ms a job is kept in a final state; infinity without a default."""
        text = dict(zip(_STATES, self._retention.split(":"), strict=False)).get(state)
        return int(text) if text else inf

    def apply(self, job: NewJob) -> NewJob:
        """Return the job with the defaults for those options that it does not have."""
        changes: dict[str, Any] = {}
        body = job.body
        # The parser returns this object for a job without a policy, and a new one for any other.
        if self._retry is not None and job.retry is DEFAULT_RETRY:
            changes["retry"] = self._retry
            body += self._retry_member
        if self._timeout_s is not None and job.timeout_ms is None:
            changes["timeout_ms"] = self._timeout_s * 1000
            body += b',"timeout_ms":%d' % changes["timeout_ms"]
        if self._visibility_s is not None and job.visibility_timeout_ms is None:
            changes["visibility_timeout_ms"] = self._visibility_s * 1000
            body += b',"visibility_timeout_ms":%d' % changes["visibility_timeout_ms"]
        if self._retention:
            changes["retention"] = self._retention
        return msgspec.structs.replace(job, body=body, **changes) if changes else job
