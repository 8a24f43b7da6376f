"""What a producer can say about a job, and its form on the wire (spec: ojs-http-binding 9.1)."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias, TypedDict, Unpack

from ojs_client.tracing import with_trace
from ojs_client.values import Encodable

JSON: TypeAlias = Any
"""A JSON value: None, bool, int, float, str, or a list or dict of them."""

State: TypeAlias = Literal[
    "scheduled",
    "available",
    "pending",
    "active",
    "completed",
    "retryable",
    "cancelled",
    "discarded",
]
"""A state of a job."""

Duration: TypeAlias = timedelta | float | str
"""A timedelta, a number of seconds, or a text such as ``"1h30m"``, ``"5m"`` or ``"250ms"``."""

_MAX_INTERVAL_S: Final = 300.0
_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
_MAX_TYPE: Final = 255
_TYPE: Final = re.compile(r"[a-z][a-z0-9_\-]*(?:\.[a-z][a-z0-9_\-]*)*")

_QUEUE: Final = re.compile(r"[a-z0-9][a-z0-9.\-]{0,127}")


def is_job_type(text: str) -> bool:
    """Return whether a job can have this type (spec: ojs-core)."""
    return len(text) <= _MAX_TYPE and _TYPE.fullmatch(text) is not None


def is_queue(text: str) -> bool:
    """Return whether a queue can have this name."""
    return _QUEUE.fullmatch(text) is not None


def names(value: Iterable[str], argument: str) -> tuple[str, ...]:
    """Return the names that an argument lists.

    Raises:
        ValueError: the value is one string, whose letters would be the names.
    """
    if isinstance(value, str | bytes):
        raise ValueError(f"{argument} must be a list of names, not the string {value!r}")  # noqa: TRY004 - callers catch ValueError for any wrong value
    return tuple(value)


def is_non_retryable(error_names: Iterable[str], patterns: Sequence[str]) -> bool:
    """Return whether a policy ends a job after an error that has these names, as a server decides.

    Args:
        error_names: the type, the code and the class of the error.
        patterns: the ``non_retryable_errors`` of the policy.
    """
    return any(
        name == pattern
        or (pattern.endswith(".*") and name.startswith(pattern[:-2]) and name != pattern[:-2])
        for name in error_names
        for pattern in patterns
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How failed attempts are repeated (spec: ojs-retry).

    Args:
        max_attempts: number of all attempts, the first one included.
        initial_interval: the delay before the second attempt.
        backoff_coefficient: the factor between two delays.
        max_interval: the longest delay; None for five minutes, or ``initial_interval`` if that is
            longer.
        jitter: whether delays are random, so that failed jobs do not run all at once.
        strategy: how the delay grows.
        non_retryable_errors: names of errors that end the job at once. A name that ends with ``.*``
            stands for all longer names that begin with the part before it.
        on_exhaustion: what happens after the last attempt; None for the queue's setting.

    Raises:
        ValueError: ``non_retryable_errors`` is one string.
    """

    max_attempts: int = 3
    initial_interval: Duration = 1.0
    backoff_coefficient: float = 2.0
    max_interval: Duration | None = None
    jitter: bool = True
    strategy: Literal["exponential", "linear", "polynomial", "constant"] = "exponential"
    non_retryable_errors: Sequence[str] = ()
    on_exhaustion: Literal["discard", "dead_letter"] | None = None

    def __post_init__(self) -> None:
        """Check and store the names, which an iterator yields only once."""
        errors = names(self.non_retryable_errors, "non_retryable_errors")
        object.__setattr__(self, "non_retryable_errors", errors)

    def json(self) -> dict[str, JSON]:
        """Return the policy as the server reads it."""
        longest = self.max_interval
        if longest is None:
            longest = max(_MAX_INTERVAL_S, milliseconds(self.initial_interval) / 1000)
        policy: dict[str, JSON] = {
            "max_attempts": self.max_attempts,
            "initial_interval": iso_duration(self.initial_interval),
            "backoff_coefficient": self.backoff_coefficient,
            "max_interval": iso_duration(longest),
            "jitter": self.jitter,
            "backoff_strategy": self.strategy,
        }
        if self.non_retryable_errors:
            policy["non_retryable_errors"] = list(self.non_retryable_errors)
        if self.on_exhaustion is not None:
            policy["on_exhaustion"] = self.on_exhaustion
        return policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Unique:
    """Which jobs count as the same, and what happens to the second one (spec: ojs-unique-jobs).

    Args:
        keys: what is compared: some of ``type``, ``queue``, ``args``, ``meta``.
        args_keys: members of the arguments that are compared; empty for all.
        meta_keys: members of ``meta`` that are compared.
        period: an earlier job of this age or older does not count; None if the age does not matter.
        states: states in which an earlier job counts; empty for all that are not finished.
        on_conflict: ``reject`` raises Conflict, ``ignore`` returns the earlier job, ``replace``
            replaces it.

    Raises:
        ValueError: a list of names is one string.
    """

    keys: Sequence[Literal["type", "queue", "args", "meta"]] = ("type", "args")
    args_keys: Sequence[str] = ()
    meta_keys: Sequence[str] = ()
    period: Duration | None = None
    states: Sequence[State] = ()
    on_conflict: Literal["reject", "ignore", "replace", "replace_except_schedule"] = "reject"

    def __post_init__(self) -> None:
        """Check and store the names, which an iterator yields only once."""
        for argument in ("keys", "args_keys", "meta_keys", "states"):
            object.__setattr__(self, argument, names(getattr(self, argument), argument))

    def json(self) -> dict[str, JSON]:
        """Return the policy as the server reads it."""
        policy: dict[str, JSON] = {"keys": list(self.keys), "on_conflict": self.on_conflict}
        for name in ("args_keys", "meta_keys", "states"):
            if value := getattr(self, name):
                policy[name] = list(value)
        if self.period is not None:
            policy["period"] = iso_duration(self.period)
        return policy


class JobOptions(TypedDict, total=False):
    """The keywords of ``Client.enqueue`` and ``new_job``. Each of them is optional.

    ``delay`` and ``scheduled_at`` exclude each other. The server adds ``delay``, and ``expires`` if
    it is a duration, to its own time, so a wrong clock of the producer does not matter.
    """

    queue: str
    priority: int
    delay: Duration
    scheduled_at: datetime
    expires: Duration | datetime
    timeout: Duration
    retry: RetryPolicy
    unique: Unique
    rate_limit: Mapping[str, JSON]
    tags: Sequence[str]
    meta: Mapping[str, JSON]
    job_id: str


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job that is not enqueued yet. ``new_job`` creates it.

    Raises:
        TypeError: there is no such option.
    """

    type: str
    args: tuple[JSON, ...] = ()
    options: JobOptions = field(default_factory=lambda: JobOptions())

    def __post_init__(self) -> None:
        """Check the names of the options, before anything is sent."""
        if unknown := self.options.keys() - JobOptions.__annotations__.keys():
            wrong = ", ".join(sorted(unknown))
            raise TypeError(f"a job has no option {wrong}: arguments of a job are positional")

    def json(self, *, trace: bool = True) -> dict[str, JSON]:
        """Return the enqueue request.

        Args:
            trace: whether to store the current trace context in ``meta``. It is False for the job
                of a cron job, because occurrences do not belong to the current trace.

        Raises:
            ValueError: options contradict each other, a time has no time zone, or ``tags`` is one
                string.
        """
        given = self.options
        options: dict[str, JSON] = {}
        for name in ("queue", "priority", "rate_limit"):
            if name in given:
                options[name] = given[name]
        if "tags" in given:
            options["tags"] = names(given["tags"], "tags")
        if "timeout" in given:
            options["timeout_ms"] = milliseconds(given["timeout"])
        if "retry" in given:
            options["retry"] = given["retry"].json()
        if "unique" in given:
            options["unique"] = given["unique"].json()
        options |= _times(given)
        body: dict[str, JSON] = {"type": self.type, "args": list(self.args)}
        if options:
            body["options"] = options
        meta = with_trace(given.get("meta")) if trace else dict(given.get("meta") or {})
        if meta:
            body["meta"] = meta
        if "job_id" in given:
            body["id"] = given["job_id"]
        return body


def new_job(type: str, /, *args: Encodable, **options: Unpack[JobOptions]) -> NewJob:
    """Return a job for ``enqueue_many``, a workflow or a cron job.

    Args:
        type: the type of the job, which chooses its handler.
        *args: the arguments.
        **options: see ``JobOptions``.

    Raises:
        TypeError: there is no such option.
        ValueError: ``tags`` is one string.
    """
    if "tags" in options:  # an iterator yields them only once
        options["tags"] = names(options["tags"], "tags")
    return NewJob(type, args, options)


def as_new_job(job: str | NewJob, /, *args: JSON, **options: Unpack[JobOptions]) -> NewJob:
    """Return a job that is given as what ``new_job`` takes or what it returns.

    Raises:
        TypeError: there is no such option, or a ``NewJob`` comes with arguments or options.
        ValueError: ``tags`` is one string.
    """
    if not isinstance(job, NewJob):
        return new_job(job, *args, **options)
    if args or options:
        raise TypeError("a NewJob has its arguments and options: give them to new_job")
    return job


def new_job_id() -> str:
    """Return a new id for the option ``job_id``: a UUIDv7 (RFC 9562).

    Store it together with what the job is for, before the first enqueue. Then a repeated enqueue
    creates no second job.
    """
    ms = (time.time_ns() // 1_000_000) % (1 << 48)
    random = int.from_bytes(os.urandom(10))
    head, tail = random >> 68, random & ((1 << 62) - 1)
    return str(uuid.UUID(int=ms << 80 | 7 << 76 | head << 64 | 2 << 62 | tail))


def _times(given: JobOptions) -> dict[str, str]:
    times: dict[str, str] = {}
    if "delay" in given and "scheduled_at" in given:
        raise ValueError("give either delay or scheduled_at")
    if "delay" in given:
        times["scheduled_at"] = f"+{iso_duration(given['delay'])}"
    if "scheduled_at" in given:
        times["scheduled_at"] = iso_time(given["scheduled_at"])
    if "expires" in given:
        expires = given["expires"]
        times["expires_at"] = (
            iso_time(expires) if isinstance(expires, datetime) else f"+{iso_duration(expires)}"
        )
    return times


def iso_time(time: datetime) -> str:
    """Return a time as RFC 3339.

    Raises:
        ValueError: the time has no time zone.
    """
    if time.tzinfo is None:
        raise ValueError(f"{time} has no time zone: use datetime.now(timezone.utc), for example")
    return time.isoformat(timespec="milliseconds")


def seconds(duration: Duration) -> float:
    """Return a duration in seconds.

    Raises:
        ValueError: a text is no duration.
    """
    if isinstance(duration, str):
        if not duration or _PART.sub("", duration):
            raise ValueError(f"a duration is a text such as '5m' or '1h30m', not {duration!r}")
        return sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(duration))
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def milliseconds(duration: Duration) -> int:
    """Return a duration in whole milliseconds."""
    return round(seconds(duration) * 1000)


def iso_duration(duration: Duration) -> str:
    """Return a duration as ISO 8601, such as ``PT1.5S``.

    Raises:
        ValueError: the duration is negative.
    """
    ms = milliseconds(duration)
    if ms < 0:
        raise ValueError(f"a duration must not be negative: {duration}")
    whole, rest = divmod(ms, 1000)
    return f"PT{whole}.{rest:03}S" if rest else f"PT{whole}S"
