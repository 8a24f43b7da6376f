"""Parse the options of an enqueue request, in every accepted form, into one ``JobOptions``.

Producers often send the same options, so the result is cached by the bytes of the options. This is
possible because the result does not depend on the clock: a relative time stays relative.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec

from ojs_cluster.core.durations import MAX_DURATION_MS, parse_duration_ms
from ojs_cluster.core.errors import InvalidRequest, ValidationFailed
from ojs_cluster.core.jobs.retry import DEFAULT_RETRY, RETRY_MEMBERS, RetryPolicy, parse_retry
from ojs_cluster.core.jobs.unique import UNIQUE_MEMBERS, UniquePolicy, parse_unique
from ojs_cluster.core.rate_limit import RATE_LIMIT_MEMBERS, RateLimitPolicy, parse_rate_limit
from ojs_cluster.core.raw_json import Raw, array_items, join, object_members, show, string, value
from ojs_cluster.core.timestamps import TimePoint, parse_timestamp

MAX_QUEUE_LENGTH: Final = 128
MAX_PRIORITY: Final = 100
MAX_VISIBILITY_TIMEOUT_MS: Final = 30 * 24 * 3600 * 1000
_is_queue: Final = re.compile(r"[a-z0-9][a-z0-9.\-]*").fullmatch
_MAX_WARNINGS: Final = 10
"""Maximum number of warnings about one job."""
_MAX_SHOWN: Final = 100
"""Maximum number of characters of a name that is not known."""
_MAX_CACHED_BYTES: Final = 512
"""Maximum size of options whose result is cached."""
_ABSENT: Final = Raw(b"null")

# Options that a request may also have as attributes of the job itself, as in the envelope of the
# core spec.
TOP_LEVEL: Final = frozenset(
    {
        "queue",
        "priority",
        "retry",
        "unique",
        "rate_limit",
        "tags",
        "timeout",
        "timeout_ms",
        "visibility_timeout_ms",
        "scheduled_at",
        "expires_at",
        "enqueue_ttl",
    }
)
SHOWN: Final = ("retry", "unique", "rate_limit", "tags")
"""Options with data of the client that are members of the stored job, under the same names."""


class _RawOptions(msgspec.Struct, forbid_unknown_fields=True):
    """The members of ``options``. A null counts as absent."""

    queue: Any = None
    priority: Any = None
    retry: Any = None
    retry_policy: Any = None
    max_attempts: Any = None
    scheduled_at: Any = None
    delay_until: Any = None
    expires_at: Any = None
    ttl: Any = None
    enqueue_ttl: Any = None
    timeout_ms: Any = None
    visibility_timeout_ms: Any = None
    visibility_timeout: Any = None
    unique: Any = None
    pending: Any = None
    rate_limit: Any = None
    metadata: Raw = _ABSENT
    tags: Raw = _ABSENT


@dataclass(frozen=True, slots=True)
class JobOptions:
    """Options after validation.

    Args:
        queue: queue name.
        priority: from -100 to 100.
        retry: retry policy.
        timeout_ms: execution timeout in ms, 0 for no limit, None for the default.
        visibility_timeout_ms: visibility timeout in ms, None for the default, 0 for that of the
            server.
        scheduled: when the job is due, None for now.
        expires: when the job expires, None for never.
        pending: whether the job waits until it is activated.
        unique: uniqueness policy; None if the job is not unique.
        rate_limit: rate limit policy; None if the job has none.
        members: the options that become attributes of the job, as JSON members without braces.
        metadata: JSON object to merge into ``meta``; None if there is none.
        warnings: texts for the response, one per member that is not known. Such members are
            ignored, because a later version of the spec may have them (ojs-json-format 14.3).
    """

    queue: str = "default"
    priority: int = 0
    retry: RetryPolicy = DEFAULT_RETRY
    timeout_ms: int | None = None
    visibility_timeout_ms: int | None = None
    scheduled: TimePoint | None = None
    expires: TimePoint | None = None
    pending: bool = False
    unique: UniquePolicy | None = None
    rate_limit: RateLimitPolicy | None = None
    members: bytes = b""
    metadata: bytes | None = None
    warnings: tuple[str, ...] = ()


DEFAULT_OPTIONS: Final = JobOptions()

_decode_options: Final = msgspec.json.Decoder(_RawOptions).decode


def is_queue(name: str) -> bool:
    """Return whether ``name`` is a valid queue name."""
    return bool(_is_queue(name)) and len(name) <= MAX_QUEUE_LENGTH


def check_queue(name: object, *, field: str = "options.queue") -> str:
    """Return ``name`` if it is a valid queue name.

    Args:
        name: a value from a request.
        field: path of the value, for the error.

    Raises:
        InvalidRequest: it is not a valid queue name.
    """
    if not isinstance(name, str) or not is_queue(name):
        raise InvalidRequest(
            f"a queue name has 1 to {MAX_QUEUE_LENGTH} of a-z, 0-9, '-' and '.', "
            f"and starts with a letter or digit; {show(name)} is not valid",
            field=field,
        )
    return name


def parse_options(raw: Raw | None, top_level: Mapping[str, Raw]) -> JobOptions:
    """Parse the options of a job. All errors have ``details.field``.

    Args:
        raw: the undecoded object ``options``, None when absent. Its members have priority.
        top_level: options that are top-level attributes of the job.

    Raises:
        InvalidRequest: an option has a wrong type or form.
        ValidationFailed: an option has a value that the spec does not allow.
    """
    if raw is None and not top_level:
        return DEFAULT_OPTIONS
    text = b"{}" if raw is None else bytes(raw)
    if not top_level and len(text) <= _MAX_CACHED_BYTES:  # the usual case
        return _resolve_cached(text)
    attributes = tuple([(name, bytes(piece)) for name, piece in top_level.items()])
    if len(text) + sum([len(piece) for _, piece in attributes]) > _MAX_CACHED_BYTES:
        return _resolve(text, top_level)
    return _resolve_cached(text, attributes)


@lru_cache(maxsize=2048)
def _resolve_cached(text: bytes, attributes: tuple[tuple[str, bytes], ...] = ()) -> JobOptions:
    return _resolve(text, {name: Raw(piece) for name, piece in attributes})


def _resolve(text: bytes, top_level: Mapping[str, Raw]) -> JobOptions:
    if text != b"null" and not text.startswith(b"{"):
        raise InvalidRequest("options must be an object", field="options")
    try:
        options, unknown = _decoded(text)
    except msgspec.DecodeError:  # The text is valid JSON, so a number does not fit into float64.
        raise InvalidRequest(
            "a number in options is out of range for float64", field="options"
        ) from None
    source = _OptionSource(options, top_level, [f"options.{name}" for name in unknown])
    members: list[bytes] = []  # The calls below append to it.
    return JobOptions(
        queue=_queue(source),
        priority=_priority(source),
        retry=_retry(source, members),
        timeout_ms=_timeout(source, members),
        visibility_timeout_ms=_visibility_timeout(source, members),
        scheduled=_scheduled(source, members),
        expires=_expires(source, members),
        pending=_pending(source),
        metadata=_metadata(source),
        unique=_unique(source, members),
        rate_limit=_rate_limit(source, members),
        members=_add_tags(source, members),
        warnings=tuple(
            f"{path[:_MAX_SHOWN]} is not known, so it is ignored"
            for path in source.unknown[:_MAX_WARNINGS]
        ),
    )


def _decoded(text: bytes) -> tuple[_RawOptions, list[str]]:
    """Return the known members of ``options``, and the names of the others."""
    if text == b"null":
        return _RawOptions(), []
    try:
        return _decode_options(text), []
    except msgspec.ValidationError:  # a member is not known, or a number does not fit
        given = object_members(text) or {}
    known = {name: given.pop(name) for name in _RawOptions.__struct_fields__ if name in given}
    return _decode_options(b"{%b}" % join(known)), list(given)


@dataclass(frozen=True, slots=True)
class _OptionSource:
    """Reads options: first from ``options``, then from the top-level attributes."""

    options: _RawOptions
    top_level: Mapping[str, Raw]
    unknown: list[str]
    """Paths of members that are not known. Policies add theirs."""

    def policy(self, name: str, *aliases: str, known: Collection[str]) -> tuple[Any, str]:
        """Return the object of a policy and its path, as ``first``; note its unknown members.

        Raises:
            ValidationFailed: it is no object.
        """
        found, path = self.first(name, *aliases, top_level=(name,))
        if found is not None and not isinstance(found, dict):
            raise ValidationFailed(f"{name} must be an object, not {show(found)}", field=path)
        self.unknown.extend(f"{path}.{each}" for each in found or () if each not in known)
        return found, path

    def first(self, *names: str, top_level: tuple[str, ...] = ()) -> tuple[Any, str]:
        """Return the first value that is present and not null, and its path for error messages.

        Args:
            names: members of ``options``.
            top_level: top-level attributes.
        """
        for name in names:
            found = getattr(self.options, name)
            if found is not None:
                return found, f"options.{name}"
        for name in top_level:
            piece = self.top_level.get(name)
            if piece is not None:
                try:
                    found = value(piece)
                except OverflowError as error:
                    raise InvalidRequest(f"{name} {error}", field=name) from None
                if found is not None:
                    return found, name
        return None, ""


def _queue(source: _OptionSource) -> str:
    name, path = source.first("queue", top_level=("queue",))
    return DEFAULT_OPTIONS.queue if name is None else check_queue(name, field=path)


def _priority(source: _OptionSource) -> int:
    priority, path = source.first("priority", top_level=("priority",))
    if priority is None:
        return DEFAULT_OPTIONS.priority
    return check_priority(priority, field=path)


def check_priority(priority: object, *, field: str) -> int:
    """Return ``priority`` if it is a valid priority.

    Raises:
        InvalidRequest: it is not an integer from ``-MAX_PRIORITY`` to ``MAX_PRIORITY``.
    """
    # Not isinstance: a JSON true would pass as the integer 1.
    if type(priority) is not int or not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        raise InvalidRequest(
            f"priority must be an integer from -{MAX_PRIORITY} to {MAX_PRIORITY}, "
            f"not {show(priority)}",
            field=field,
        )
    return priority


def _retry(source: _OptionSource, members: list[bytes]) -> RetryPolicy:
    policy, path = source.policy("retry", "retry_policy", known=RETRY_MEMBERS)
    attempts, attempts_path = source.first("max_attempts")
    if policy is None and attempts is None:
        return DEFAULT_RETRY
    retry = parse_retry(policy, path=path, max_attempts=attempts, max_attempts_path=attempts_path)
    members.append(b'"retry":' + retry.json())
    return retry


def _in_milliseconds(amount: Any, path: str, unit_ms: int = 1) -> int:
    """Return a number of milliseconds, or of other units of ``unit_ms``, as milliseconds."""
    name = path.rpartition(".")[2]
    if type(amount) is not int or not 0 <= amount * unit_ms <= MAX_DURATION_MS:
        unit = "milliseconds" if unit_ms == 1 else "seconds"
        raise ValidationFailed(
            f"{name} must be an integer of {unit} from 0 to ten years, not {show(amount)}",
            field=path,
        )
    return amount * unit_ms


def _timeout(source: _OptionSource, members: list[bytes]) -> int | None:
    amount, path = source.first("timeout_ms", top_level=("timeout_ms", "timeout"))
    if amount is None:
        return None
    # `timeout` of the core envelope is in seconds.
    timeout_ms = _in_milliseconds(amount, path, 1_000 if path == "timeout" else 1)
    members.append(b'"timeout_ms":%d' % timeout_ms)
    return timeout_ms


def _visibility_timeout(source: _OptionSource, members: list[bytes]) -> int | None:
    amount, path = source.first(
        "visibility_timeout_ms", "visibility_timeout", top_level=("visibility_timeout_ms",)
    )
    if amount is None:
        return None
    if path == "options.visibility_timeout":
        timeout_ms = _duration_ms(amount, path)
    else:
        timeout_ms = _in_milliseconds(amount, path)
    members.append(b'"visibility_timeout_ms":%d' % timeout_ms)
    # 0 chooses that of the server: a lease of 0 ms would expire before the worker has read it.
    return timeout_ms


def _duration_ms(text: Any, path: str) -> int:
    name = path.rpartition(".")[2]
    if not isinstance(text, str):
        raise ValidationFailed(f"{name} must be an ISO 8601 duration, not {show(text)}", field=path)
    try:
        return parse_duration_ms(text)
    except ValueError as error:
        raise ValidationFailed(f"{name} {error}", field=path) from None


def _time_point(text: Any, path: str) -> TimePoint:
    name = path.rpartition(".")[2]
    if not isinstance(text, str):
        raise InvalidRequest(f"{name} must be a time as text, not {show(text)}", field=path)
    try:
        return parse_timestamp(text)
    except ValueError as error:
        raise InvalidRequest(f"{name} {error}", field=path) from None


def _add_time(members: list[bytes], name: bytes, point: TimePoint) -> None:
    """Add an absolute time. The store adds the absolute time of a relative one."""
    if point.verbatim is not None:  # It has only digits and separators, so it needs no escapes.
        members.append(b'"%b":"%b"' % (name, point.verbatim.encode()))


def _scheduled(source: _OptionSource, members: list[bytes]) -> TimePoint | None:
    text, path = source.first("scheduled_at", "delay_until", top_level=("scheduled_at",))
    if text is None:
        return None
    point = _time_point(text, path)
    _add_time(members, b"scheduled_at", point)
    return point


def _expires(source: _OptionSource, members: list[bytes]) -> TimePoint | None:
    text, path = source.first("expires_at", top_level=("expires_at",))
    if text is not None:
        point = _time_point(text, path)
        _add_time(members, b"expires_at", point)
        return point
    amount, path = source.first("ttl", "enqueue_ttl", top_level=("enqueue_ttl",))
    if amount is None:
        return None
    # The spec allows a number of seconds or an ISO 8601 duration. Some producers put a plus before
    # the duration, as for a relative time.
    if isinstance(amount, str):
        ttl_ms = _duration_ms(amount.removeprefix("+"), path)
    else:
        ttl_ms = _in_milliseconds(amount, path, 1_000)
    return TimePoint(ttl_ms, relative=True, verbatim=None)


def _pending(source: _OptionSource) -> bool:
    pending, path = source.first("pending")
    if pending is None:
        return False
    if not isinstance(pending, bool):
        raise InvalidRequest(f"pending must be true or false, not {show(pending)}", field=path)
    return pending


def _metadata(source: _OptionSource) -> bytes | None:
    piece = bytes(source.options.metadata)
    if piece == b"null":
        return None
    if not piece.startswith(b"{"):
        raise InvalidRequest("metadata must be an object", field="options.metadata")
    return piece


def _unique(source: _OptionSource, members: list[bytes]) -> UniquePolicy | None:
    unique, path = source.policy("unique", known=UNIQUE_MEMBERS)
    if unique is None:
        return None
    policy = parse_unique(unique, path=path)
    members.append(b'"unique":' + policy.json())
    return policy


def _rate_limit(source: _OptionSource, members: list[bytes]) -> RateLimitPolicy | None:
    limit, path = source.policy("rate_limit", known=RATE_LIMIT_MEMBERS)
    if limit is None:
        return None
    policy = parse_rate_limit(limit, path=path)
    members.append(b'"rate_limit":' + policy.json())
    return policy


def _add_tags(source: _OptionSource, members: list[bytes]) -> bytes:
    """Append the tags to ``members``, and return all members joined."""
    tags, path = bytes(source.options.tags), "options.tags"
    if tags == b"null" and "tags" in source.top_level:
        tags, path = bytes(source.top_level["tags"]), "tags"
    if tags != b"null":
        items = array_items(tags)
        if items is None or not all(string(item) for item in items):
            raise InvalidRequest("tags must be an array of non-empty strings", field=path)
        members.append(b'"tags":' + tags)
    return b",".join(members)
