"""The configuration of a worker pool (spec: ojs-fair-scheduling 6).

A pool has queues and a strategy. A fetch that names the pool gets jobs from the queue that the
strategy chooses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.options import check_queue, is_queue

STRICT: Final = "strict"
ROUND_ROBIN: Final = "round-robin"
WEIGHTED: Final = "weighted"
LEAST_LOADED: Final = "least-loaded"
STRATEGIES: Final = (STRICT, ROUND_ROBIN, WEIGHTED, LEAST_LOADED)
MAX_WEIGHT: Final = 1000
"""Maximum weight of a queue. The minimum is 1, so no queue of a pool is starved."""
MAX_POOL_QUEUES: Final = 64
"""Maximum number of queues of a pool. A fetch may call the shards of all of them."""


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """A worker pool, as it is stored in JSON.

    Attributes:
        name: the name, which follows the rules of queue names.
        queues: the queues in order, each once.
        strategy: one of ``STRATEGIES``.
        weights: the weights by queue; a queue without one has the weight 1. Only the strategy
            ``weighted`` uses them.
        created_ms, updated_ms: Unix times in ms. No two changes have the same ``updated_ms``.
    """

    name: str
    queues: tuple[str, ...]
    strategy: str = ROUND_ROBIN
    weights: dict[str, int] = {}
    created_ms: int = 0
    updated_ms: int = 0

    @property
    def shares(self) -> dict[str, int]:
        """The relative number of jobs of each queue while all queues have jobs.

        Empty if the strategy gives no shares.
        """
        if self.strategy == WEIGHTED:
            return {queue: self.weights.get(queue, 1) for queue in self.queues}
        return dict.fromkeys(self.queues, 1) if self.strategy == ROUND_ROBIN else {}


_decoder = msgspec.json.Decoder(Pool)


def encode(pool: Pool) -> bytes:
    """Return the stored record of a pool."""
    return msgspec.json.encode(pool)


def decode(record: bytes) -> Pool:
    """Return a pool from its record.

    Raises:
        ValueError: the record is damaged.
    """
    pool = _decoder.decode(record)
    weights_valid = all(1 <= weight <= MAX_WEIGHT for weight in pool.weights.values())
    if not pool.queues or pool.strategy not in STRATEGIES or not weights_valid:
        raise ValueError("the pool has no queue, an unknown strategy or an invalid weight")
    if not all(map(is_queue, pool.queues)):
        raise ValueError("the pool has an invalid queue name")
    return pool


def check_pool_name(name: str, *, field: str = "name") -> str:
    """Return ``name`` if a pool can have it.

    Raises:
        InvalidRequest: it breaks the rules of queue names, which pools share.
    """
    if not is_queue(name):
        raise InvalidRequest(
            "a pool name has 1 to 255 of a-z, 0-9, '-' and '.', and starts with a letter or digit",
            field=field,
        )
    return name


def new_pool(
    name: str, strategy: str | None, queues: Sequence[str], weights: Mapping[str, int]
) -> Pool:
    """Return a pool that a client has described.

    Args:
        name: the name of the pool.
        strategy: the strategy; None for round-robin.
        queues: the queues in order.
        weights: the weights of some queues.

    Raises:
        InvalidRequest: a name, the strategy, the number of queues or a weight is not valid.
    """
    check_pool_name(name)
    if strategy is not None and strategy not in STRATEGIES:
        raise InvalidRequest(f"strategy must be one of {', '.join(STRATEGIES)}", field="strategy")
    if not 1 <= len(queues) <= MAX_POOL_QUEUES:
        raise InvalidRequest(f"a pool has between 1 and {MAX_POOL_QUEUES} queues", field="queues")
    for queue in queues:
        check_queue(queue, field="queues")
    if len(set(queues)) < len(queues):
        raise InvalidRequest("a queue is named twice", field="queues")
    for queue, weight in weights.items():
        if queue not in queues:
            raise InvalidRequest(
                f"'{queue[:255]}' has a weight and is not a queue of the pool", field="weights"
            )
        if not 1 <= weight <= MAX_WEIGHT:
            raise InvalidRequest(
                f"the weight of '{queue}' must be from 1 to {MAX_WEIGHT}", field="weights"
            )
    return Pool(
        name=name,
        queues=tuple(queues),
        strategy=strategy or ROUND_ROBIN,
        weights=dict(weights),
    )
