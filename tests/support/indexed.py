"""The index of the search."""

from __future__ import annotations

from ojs_cluster.core.indexed_fields import IndexedField
from ojs_cluster.keys import Shard
from ojs_cluster.store.engine.jobs.index_values import value_digest


def value_key(shard: Shard, field: IndexedField, value: str) -> bytes:
    """Return the key of the sorted set of a value in a shard."""
    return shard.indexed_value(value_digest(field, value))
