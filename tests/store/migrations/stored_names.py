"""The names in the stored data: keys, fields of hashes, members of JSON records, effects.

They are collected while every script runs, and from the modules that declare names.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from ojs_cluster import keys
from ojs_cluster.core.agents.record import AgentRecord, Branch, HumanDecision
from ojs_cluster.core.bulk.selection import Selection
from ojs_cluster.core.pools.pool import Pool
from ojs_cluster.core.queue_defaults import QueueDefaults
from ojs_cluster.core.tenants.settings import EnqueueRate, TenantLimits, TenantSettings
from ojs_cluster.core.webhooks import Secret, Subscription
from ojs_cluster.core.workflow import WorkflowNode
from ojs_cluster.keys import SHARD_KEYS, Meta
from ojs_cluster.store.effects import EFFECTS
from ojs_cluster.store.engine.jobs.history_entries import Cause, Entry
from ojs_cluster.store.engine.transactions.contents import ManualRetry, Plan, Replacement
from ojs_cluster.store.ground import job_fields
from ojs_cluster.store.ground.process_state.schema_index import SchemaRecord, TypePolicy
from ojs_cluster.store.operators.dashboard.marks import Mark
from ojs_cluster.store.operators.dashboard.problem_records import MuteDetails, ProblemDescription

_KEY: Final = re.compile(rb"ojs:\{([^}]*)\}:([^:]*)")
_PREFIX: Final = re.compile(r'(?:b"(?:%b|ojs:\{meta\}:)|self\.prefix \+ b")([a-z_]+:?)(?:%|")')
_DATA: Final = re.compile(r"sub_[0-9a-f-]+|\d+")
_NAMED_BY_DATA: Final = frozenset(
    (
        *("error_groups", "outbox", "tenant_weights", "ty", "meta:job_schema_documents"),
        *("meta:job_schemas", "meta:partitions", "meta:pool_counts", "meta:pools"),
        *("meta:processes", "meta:queue_defaults", "meta:tenants"),
        *("meta:problems", "meta:problem_mutes"),
        "meta:webhooks",
    )
)
"""Hashes whose fields are names of queues, tenants and the like. Members of their values count."""
_JSON_FIELDS: Final = frozenset({("meta:bulk", "filter")})
_USER_MEMBERS: Final = frozenset({"limits"})
"""Members whose own members count, too."""

_RECORDS: Final[tuple[type[msgspec.Struct], ...]] = (
    *(WorkflowNode, Pool, EnqueueRate, TenantLimits, TenantSettings, SchemaRecord, TypePolicy),
    *(Secret, Subscription, Mark, QueueDefaults, HumanDecision, Branch, AgentRecord),
    *(Replacement, ManualRetry, Plan, Cause, Entry, ProblemDescription, MuteDetails),
)
"""Records that are stored as JSON or as msgpack."""

Names = dict[str, set[str]]


class StoredNames:
    """Passes calls to a client, and collects the names in the hashes that scripts get.

    Args:
        redis: the client.
        db: redis-py's client of the same servers.
    """

    def __init__(self, redis: Any, db: Any) -> None:
        self._redis = redis
        self._db = db
        self._calls = 0
        self.found: Names = defaultdict(set)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    async def script(self, slot: int, script: Any, keys: Any, args: Any, **more: Any) -> Any:
        reply = await self._redis.script(slot, script, keys, args, **more)
        for key in keys:
            self._read(key)
        self._calls += 1
        if self._calls % 50 == 0:  # keys of records that a script derives
            self.read_all()
        return reply

    def read_all(self) -> None:
        """Collect the names in all hashes."""
        for key in self._db.scan_iter(match="ojs:*", count=5000):
            self._read(key)

    def _read(self, key: bytes) -> None:
        try:
            fields: Mapping[bytes, bytes] = self._db.hgetall(key)
        except Exception:
            return
        found = _KEY.match(key)
        if not fields or found is None:
            return
        kind = ("meta:" if found[1] == b"meta" else "") + found[2].decode()
        names = self.found[kind]
        for raw, value in fields.items():
            name = raw.decode(errors="replace")
            if kind in _NAMED_BY_DATA:
                names.update(_members(value))
            elif kind == "tc":
                names.add(name.rpartition("/")[2])
            else:
                names.add(_DATA.sub("#", name))
            if (kind, name) in _JSON_FIELDS:
                names.update(f"{name}.{member}" for member in _members(value))


def _members(value: bytes) -> set[str]:
    """Return the names of a record's members; none if it is no JSON object."""
    with suppress(ValueError):
        record = json.loads(value)
        if isinstance(record, dict):
            nested = [record[name] for name in _USER_MEMBERS & record.keys()]
            return {*record, *(name for each in nested if isinstance(each, dict) for name in each)}
    return set()


def declared_names() -> Names:
    """Return the names that modules declare: of keys, of fields of jobs, and of effects."""
    meta = {f.default for f in Meta.__dataclass_fields__.values() if isinstance(f.default, bytes)}
    prefixes = set(_PREFIX.findall(Path(keys.__file__).read_text()))
    shard_keys = {name for name in SHARD_KEYS if not name.endswith("_channel")}
    return {
        "keys": shard_keys | {name for name in prefixes if name.endswith(":")},
        "keys of the meta tag": {
            key.decode().partition("}:")[2] for key in meta if not key.endswith(b"_channel")
        },
        "j": {
            value.decode()
            for name, value in vars(job_fields).items()
            if name.isupper() and isinstance(value, bytes)
        }
        | {"@c", "@u"},  # the claim of an alias, and the tombstone under it
        "effects": set(EFFECTS),
        "bulk filter": {field.name for field in dataclasses.fields(Selection)},
        **{record.__name__: _struct_names(record) for record in _RECORDS},
    }


def _struct_names(record: type[msgspec.Struct]) -> set[str]:
    """Return the members of a record as they are stored, with their places in an array."""
    names = record.__struct_encode_fields__
    if record.__struct_config__.array_like:
        return {f"{place} {name}" for place, name in enumerate(names)}
    return set(names)
