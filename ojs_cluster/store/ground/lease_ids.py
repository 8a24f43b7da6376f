"""Lease ids: how a fetch creates them, and how to find the shard of a lease.

A lease id consists of ``lease_``, the shard's index as three hex digits, fifteen random hex digits,
``_`` and the job's position in the fetch. The index is needed when the client chose the job's id:
then an alias in another shard leads to the job, and a failover may lose the alias. The worker can
still end its attempt, because the lease id names the shard (see ``store/engine/jobs/by_id.py``).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ojs_cluster.keys import Keyspace, Shard

PREFIX_BYTES: Final = len("lease_") + 3 + 15 + len("_")
"""Length of the prefix that all lease ids of one fetch have in common."""

_LEASE_ID: Final = re.compile(r"lease_([0-9a-f]{3})[0-9a-f]{15}_[0-9]{1,9}")


def new_prefix(shard: Shard) -> bytes:
    """Return a new prefix for the lease ids of one fetch from ``shard``."""
    return b"lease_%03x%b_" % (shard.index, os.urandom(8).hex()[:15].encode())


def shard_of_lease(keys: Keyspace, lease_id: str | None) -> Shard | None:
    """Return the shard that granted a lease, None if no shard can have created the lease id."""
    match = _LEASE_ID.fullmatch(lease_id or "")
    if match is None:
        return None
    index = int(match[1], 16)
    return keys.shard(index) if index < len(keys) else None
