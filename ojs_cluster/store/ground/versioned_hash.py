"""Read a hash of records that has a version, so that processes can keep copies of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from ojs_cluster.store.ground.runtime import Runtime

VERSION: Final = b"#"
"""Name of the field that holds the version."""


@dataclass(frozen=True, slots=True)
class VersionedHash:
    """All records at one time.

    Attributes:
        now_ms: Unix time in ms, by the clock of Redis.
        version: version of the records; empty before the first record.
        records: the stored records by name.
    """

    now_ms: int
    version: bytes
    records: dict[str, bytes]


T = TypeVar("T", bound=VersionedHash)


async def read_versioned_hash(
    store: Runtime, key: bytes, known: bytes, make: Callable[[int, bytes, dict[str, bytes]], T]
) -> T | None:
    """Return all records, or None if ``known`` is their version.

    Args:
        store: the store.
        key: a key of the meta tag.
        known: the version of the caller's copy, empty if it has none.
        make: the class of the result.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    now_ms, version, *flat = await store.run_meta("read_versioned_hash", [key], [known])
    if not flat and known:
        return None
    items = iter(flat[0] if flat else ())
    records = {
        name.decode(errors="replace"): record
        for name, record in zip(items, items, strict=True)
        if name != VERSION
    }
    return make(now_ms, version, records)
