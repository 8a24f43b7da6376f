"""The product's patience, made long: what is slow on a busy machine must not look broken.

Some steps wait for others only for a second or two and leave the rest to the scheduler; a client
gives a server up after five. A test that is about such a time sets it itself.
"""

from __future__ import annotations

from typing import Any, Final

import pytest

from ojs_cluster.redis import router
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded import Embedded
from ojs_cluster.store import (
    away,
    background,
    contacts,
    cron_fire,
    fetch,
    metrics,
    outbox,
    partition_fetch,
    partitions,
    queues,
    registry,
    unique,
    wake,
)

LONG_S: Final = 60.0

_TIMES: Final = (
    (away, "ANSWER_S"),
    (background, "_INLINE_S"),
    (contacts, "_NOTE_S"),
    (cron_fire, "_LOOK_S"),
    (fetch, "PASSING_S"),
    (fetch, "RELEASE_S"),
    (outbox, "DELIVER_S"),
    (partition_fetch, "PEEK_S"),
    (partitions, "_PATIENCE_S"),
    (queues, "_REGISTRY_S"),
    (metrics, "PATIENCE_S"),
    (registry, "PATIENCE_S"),
    (router, "SILENT_S"),
    (unique, "PATIENCE_S"),
    (wake, "SUBSCRIBE_S"),
)


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the times that end by themselves long enough for any machine."""
    for module, name in _TIMES:
        assert hasattr(module, name), f"{module.__name__}.{name}"
        monkeypatch.setattr(module, name, LONG_S)
    monkeypatch.setattr(away, "PAUSE_S", 0.0)  # a call that a test lets fail stops no other


def patient_client(backend: Embedded, **overrides: Any) -> ClientSettings:
    """Settings of a client that waits for a busy server."""
    times = dict.fromkeys(("connect_timeout_s", "reply_timeout_s", "call_timeout_s"), LONG_S)
    return ClientSettings.from_url(backend.url, **{**times, **overrides})
