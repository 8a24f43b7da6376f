"""Names that producers, workers and the checker share, and the bounds of each."""

from __future__ import annotations

from typing import Final

from tests.chaos.history import Bounds, Window

ANY_QUEUES: Final = ("chaos-a", "chaos-b", "chaos-c")
SPREAD: Final = "chaos-spread"
LIMITED: Final = "chaos-limited"
ORDERED: Final = "chaos-ordered"
PURGED: Final = "chaos-purged"
DEAD: Final = "chaos-dead"
STEPS: Final = "chaos-steps"
CRON: Final = "chaos-cron"
PAUSED: Final = "chaos-paused"
BOUNDED: Final = "chaos-bounded"
RATED: Final = "chaos-rated"
TENANTS: Final = "chaos-tenants"
SOURCE: Final = "chaos-source"
TARGET: Final = "chaos-target"
IMPORTED: Final = "chaos-imported"
QUEUES: Final = (
    *(*ANY_QUEUES, SPREAD, LIMITED, ORDERED, PURGED, DEAD, STEPS, CRON, PAUSED),
    *(BOUNDED, RATED, TENANTS, SOURCE, TARGET, IMPORTED),
)

SWITCHED: Final = (PAUSED, SPREAD, ANY_QUEUES[-1])
"""Queues that are paused and drained, each by its own operator."""

PARTITIONS: Final = (1, 2, 4)
"""Default numbers of partitions. No limit may be smaller than the number of partitions."""
QUEUE_LIMIT: Final = 4
KEYS: Final = {"tenant-a": 1, "tenant-b": 3}
BOUND: Final = 8
RATE: Final = Window(8, 2)

CROWDED: Final = "tenant-crowded"
HASTY: Final = "tenant-hasty"
FREE: Final = "tenant-free"
TENANT_DEPTH: Final = 10
TENANT_RATE: Final = Window(6, 3)

BOUNDS: Final = Bounds(
    active={
        ("queue", LIMITED): QUEUE_LIMIT,
        ("queue", IMPORTED): QUEUE_LIMIT,
        **{("key", key): limit for key, limit in KEYS.items()},
    },
    starts={RATED: RATE},
    waiting={BOUNDED: BOUND},
    tenant_waiting={CROWDED: TENANT_DEPTH},
    tenant_jobs={HASTY: TENANT_RATE},
    partitions=max(PARTITIONS),
)
FINGERPRINTS: Final = ("invoice-1", "invoice-2", "invoice-3")
CRONS: Final = {"skip": "@every 2s", "allow": "*/2 * * * * *", "enqueue": "*/3 * * * * *"}
CANCELLING_CRON: Final = "cancel_previous"

FOR_GOOD: Final = {
    "max_attempts": 100,
    "initial_interval": "PT0.2S",
    "backoff_coefficient": 1.0,
    "jitter": False,
}
"""Such a job ends only by an ack or a request."""
