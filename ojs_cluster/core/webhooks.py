"""Webhook subscriptions: which events go to which URL (spec: ojs-webhooks 5).

A subscription selects events by patterns. ``pack`` replaces them by the names of events, so that a
script can find an event's name in a map.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from ojs_cluster.core import events
from ojs_cluster.core.errors import InvalidRequest, ValidationFailed
from ojs_cluster.core.jobs.options import check_queue

MAX_PATTERNS: Final = 50
"""Maximum number of event patterns of one subscription, and also of its queues and job types."""
MAX_METADATA: Final = 4096
"""Maximum size of the metadata of a subscription in bytes."""
MAX_PACKED: Final = 16 * 1024
"""Maximum size in bytes of the result of ``pack``. Each call of a script that appends events has it
as an argument."""
_MAX_JOB_TYPE_CHARACTERS: Final = 255
_MIN_SECRET_CHARACTERS, _MAX_SECRET_CHARACTERS = 16, 255
_NEW_SECRET_BYTES: Final = 32
_STANDARD_PREFIX: Final = "whsec_"
_is_pattern = re.compile(r"\*|(?=.{1,64}\Z)[a-z][a-z_]*(\.[a-z][a-z_]*)*(\.\*)?").fullmatch


class Secret(msgspec.Struct, frozen=True):
    """A signing secret; ``until_ms`` is when a rotated one ends, in Unix ms, None for never."""

    text: str
    until_ms: int | None = None


class Subscription(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A webhook subscription, as it is stored in JSON.

    Attributes:
        id: the id, ``sub_`` and a UUID.
        url: where deliveries go.
        events: event types; ``job.*`` stands for all types that begin with ``job.``, and ``*`` for
            all.
        queues: queues of the wanted events, empty for all.
        job_types: job types of the wanted events, empty for all.
        active: whether events are delivered.
        disabled_reason: why the server has deactivated it; empty if it has not.
        secrets: the signing secrets, newest first. Each signs every delivery until it ends.
        metadata: a JSON object of the client, copied without changes.
        created_ms, updated_ms: Unix times in ms.
    """

    id: str
    url: str
    events: tuple[str, ...]
    queues: tuple[str, ...] = ()
    job_types: tuple[str, ...] = ()
    active: bool = True
    disabled_reason: str = ""
    secrets: tuple[Secret, ...]
    metadata: msgspec.Raw = msgspec.Raw(b"")
    created_ms: int
    updated_ms: int

    def selected_names(self) -> frozenset[str]:
        """Return the names of the events that this server emits and the subscription selects."""
        return frozenset(name for name in events.NAMES if _selects(self.events, name))

    def signing_keys(self, now_ms: int) -> list[str]:
        """Return the secrets that sign a delivery at ``now_ms`` (Unix ms), newest first."""
        return [
            each.text for each in self.secrets if each.until_ms is None or each.until_ms > now_ms
        ]


_decoder = msgspec.json.Decoder(Subscription)


def decode(stored: bytes) -> Subscription:
    """Return a subscription from its stored JSON.

    Raises:
        ValueError: the JSON is damaged.
    """
    return _decoder.decode(stored)


def encode(subscription: Subscription) -> bytes:
    """Return a subscription as JSON."""
    if not subscription.metadata:
        subscription = msgspec.structs.replace(subscription, metadata=msgspec.Raw(b"{}"))
    return msgspec.json.encode(subscription)


def pack(subscriptions: Iterable[Subscription]) -> bytes:
    """Return what active subscriptions select, as MessagePack for scripts that append events.

    Returns:
        An array with one row per subscription: id, event names, queues, job types. Each of the last
        three is a map whose keys are the selected names, or false for every name. Empty bytes when
        no event is selected.
    """
    rows: list[list[Any]] = []
    for each in subscriptions:
        names = each.selected_names()
        if each.active and names:
            name_map = False if names == events.NAMES else _as_map(names)
            rows.append([each.id, name_map, *map(_as_map, filters(each))])
    return msgspec.msgpack.encode(rows) if rows else b""


def filters(subscription: Subscription) -> tuple[Sequence[str], Sequence[str]]:
    """Return the queues and the job types that a subscription selects, empty for all."""
    return subscription.queues, subscription.job_types


def _as_map(names: Iterable[str]) -> Any:
    """Return a map with these keys, or False if there are none."""
    return dict.fromkeys(sorted(names), True) or False


def _selects(patterns: Iterable[str], name: str) -> bool:
    return any(
        pattern in ("*", name) or (pattern.endswith(".*") and name.startswith(pattern[:-1]))
        for pattern in patterns
    )


def check_events(patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the event patterns of a request without repetitions.

    A type that this server does not emit is accepted beside one that it emits: clients subscribe to
    all types of the specification.

    Raises:
        InvalidRequest: there is none, there are too many, or one is not an event type or pattern.
        ValidationFailed: this server emits no event of these types.
    """
    if not 1 <= len(patterns) <= MAX_PATTERNS:
        raise InvalidRequest(f"give 1 to {MAX_PATTERNS} event types", field="events")
    for index, pattern in enumerate(patterns):
        if not _is_pattern(pattern):
            raise InvalidRequest(
                "must be an event type such as job.completed, or job.*, or *",
                field=f"events[{index}]",
            )
    if not any(_selects(patterns, name) for name in events.NAMES):
        raise ValidationFailed(
            "this server emits no event of these types; docs/guide/webhooks.md lists its types",
            field="events",
        )
    return tuple(dict.fromkeys(patterns))


def check_filter(queues: Sequence[str], job_types: Sequence[str]) -> None:
    """Check the names of a filter.

    Raises:
        InvalidRequest: there are too many names, or one is not valid.
    """
    for field, names in (("queues", queues), ("job_types", job_types)):
        if len(names) > MAX_PATTERNS:
            raise InvalidRequest(f"give at most {MAX_PATTERNS} names", field=f"filter.{field}")
        for index, name in enumerate(names):
            path = f"filter.{field}[{index}]"
            if field == "queues":
                check_queue(name, field=path)
            elif not 1 <= len(name) <= _MAX_JOB_TYPE_CHARACTERS:
                raise InvalidRequest(
                    f"must have 1 to {_MAX_JOB_TYPE_CHARACTERS} characters", field=path
                )


def check_secret(text: str) -> str:
    """Return a signing secret that a client has chosen.

    Raises:
        InvalidRequest: it is too short, too long, or has characters that are not printable ASCII.
    """
    has_valid_length = _MIN_SECRET_CHARACTERS <= len(text) <= _MAX_SECRET_CHARACTERS
    if not (has_valid_length and text.isascii() and text.isprintable()):
        raise InvalidRequest(
            f"must have {_MIN_SECRET_CHARACTERS} to {_MAX_SECRET_CHARACTERS} printable ASCII "
            "characters",
            field="secret",
        )
    return text


def new_secret() -> str:
    """Return a new signing secret in the form of Standard Webhooks: ``whsec_`` and base64."""
    return _STANDARD_PREFIX + base64.b64encode(secrets.token_bytes(_NEW_SECRET_BYTES)).decode()


def standard_key(secret: str) -> bytes:
    """Return the key with which Standard Webhooks signs: the decoded base64 after ``whsec_``.

    A secret that a client has chosen may have another form. The key is then its UTF-8 bytes.
    """
    if secret.startswith(_STANDARD_PREFIX):
        try:
            return base64.b64decode(secret[len(_STANDARD_PREFIX) :], validate=True)
        except binascii.Error:
            pass
    return secret.encode()
