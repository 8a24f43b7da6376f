"""Store webhook subscriptions under the meta tag.

There are at most ``MAX_SUBSCRIPTIONS``, so one hash has all of them, and every process keeps a copy
(``webhook_table``). Each change replaces one record, unless another client has changed it since.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

import msgspec

from ojs_cluster.core.errors import Conflict, InvalidRequest, NotFound
from ojs_cluster.core.webhooks import MAX_PACKED, Secret, Subscription, decode, encode, pack
from ojs_cluster.keys import Meta
from ojs_cluster.store.ground.runtime import Runtime
from ojs_cluster.store.ground.versioned_table import Snapshot, VersionedHash

MAX_SUBSCRIPTIONS: Final = 100
"""Maximum number of subscriptions of a cluster."""
ROTATION_MS: Final = 24 * 3_600_000
"""How long a replaced secret is still used to sign, in ms (spec: ojs-webhooks 8.3)."""
_MAX_SECRETS: Final = 4
"""Maximum number of secrets that sign each delivery."""

R = TypeVar("R")
Change = Callable[[Subscription], Subscription]
SUBSCRIPTIONS: Final = VersionedHash("webhook subscription", Meta().webhooks, decode)
read_all: Final = SUBSCRIPTIONS.read_all


def oldest_first(snapshot: Snapshot[Subscription]) -> list[Subscription]:
    """Return the subscriptions in the order of their creation."""
    return sorted(snapshot.records.values(), key=lambda each: (each.created_ms, each.id))


async def get(store: Runtime, subscription_id: str) -> Subscription:
    """Return one subscription.

    Raises:
        NotFound: there is no such subscription.
        BackendUnavailable: Redis did not answer in time.
    """
    return _found((await read_all(store)).records, subscription_id)


async def create(store: Runtime, make: Callable[[str, int], Subscription]) -> Subscription:
    """Store a new subscription.

    Args:
        store: the store.
        make: returns the subscription, given its id and its creation time in Unix ms.

    Raises:
        InvalidRequest: there are too many subscriptions, or together they select too many
            names.
        BackendUnavailable: Redis did not answer in time.
    """
    snapshot = await read_all(store)
    new = make(f"sub_{uuid.uuid4()}", snapshot.now_ms)
    _check_size([*snapshot.records.values(), new])
    if await _write(store, new.id, b"", encode(new)) == b"full":
        raise InvalidRequest(f"at most {MAX_SUBSCRIPTIONS} webhook subscriptions may exist")
    return new


async def change(store: Runtime, subscription_id: str, edit: Change) -> Subscription:
    """Change a subscription; return the new one.

    Args:
        store: the store.
        subscription_id: the subscription.
        edit: returns the new subscription, given the present one. May be called again after a
            change by another client.

    Raises:
        NotFound: there is no such subscription.
        InvalidRequest: the subscriptions would together select too many names.
        BackendUnavailable: Redis did not answer in time.
    """
    while True:
        snapshot = await read_all(store)
        old = _found(snapshot.records, subscription_id)
        now_ms = max(snapshot.now_ms, old.updated_ms)
        new = msgspec.structs.replace(edit(old), id=old.id, updated_ms=now_ms)
        _check_size((snapshot.records | {subscription_id: new}).values())
        expected = snapshot.stored[subscription_id]
        if await _write(store, old.id, expected, encode(new)) == b"ok":
            return new


async def rotate(store: Runtime, subscription_id: str, secret: str) -> Subscription:
    """Add a new secret to a subscription. The older secrets are used for ``ROTATION_MS`` more.

    Raises:
        NotFound: there is no such subscription.
        Conflict: the secret was replaced too often within ``ROTATION_MS``.
        BackendUnavailable: Redis did not answer in time.
    """
    snapshot = await read_all(store)
    until_ms = snapshot.now_ms + ROTATION_MS

    def replace_secret(old: Subscription) -> Subscription:
        # A secret that was replaced before keeps its earlier end.
        older = [
            Secret(each.text, min(each.until_ms or until_ms, until_ms))
            for each in old.secrets
            if each.until_ms is None or each.until_ms > snapshot.now_ms
        ]
        if len(older) >= _MAX_SECRETS:
            raise Conflict(f"{_MAX_SECRETS} secrets are in use; the oldest end within a day")
        return msgspec.structs.replace(old, secrets=(Secret(secret), *older))

    return await change(store, subscription_id, replace_secret)


async def delete(store: Runtime, subscription_id: str) -> None:
    """Delete a subscription.

    Raises:
        NotFound: there is no such subscription.
        BackendUnavailable: Redis did not answer in time.
    """
    while True:
        record = _found((await read_all(store)).stored, subscription_id)
        if await _write(store, subscription_id, record, b"") == b"ok":
            return


def _found(by_id: Mapping[str, R], subscription_id: str) -> R:
    if subscription_id not in by_id:
        raise NotFound("webhook subscription", subscription_id[:100])
    return by_id[subscription_id]


def _check_size(subscriptions: Iterable[Subscription]) -> None:
    if len(pack(subscriptions)) > MAX_PACKED:
        raise InvalidRequest(
            f"all subscriptions together may select {MAX_PACKED} bytes of event types, queues and "
            "job types: select fewer names, or more of them by a pattern",
            field="events",
        )


async def _write(store: Runtime, subscription_id: str, expected: bytes, wanted: bytes) -> bytes:
    meta = store.keys.meta
    reply: bytes = await store.run_meta(
        "write_record",
        [meta.webhooks],
        [subscription_id, expected, wanted, MAX_SUBSCRIPTIONS, meta.webhook_channel],
    )
    return reply
