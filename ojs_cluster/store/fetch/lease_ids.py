"""Lease ids: how a fetch makes them, and how to find the shard of a lease.

A lease id is ``lease_``, the shard's index as three hex digits, fifteen random hex digits, ``_``
and the job's position in the fetch. It contains the shard because a job whose id the client chose
is found through an alias in another shard. If a failover loses that alias, the worker can still end
its attempt: the lease id names the shard (see ``store/jobs/by_id.py``).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ojs_cluster.keys import Keyspace, Shard

PREFIX_BYTES: Final = len("lease_") + 3 + 15 + len("_")
"""Length of the part of a lease id that all leases of one fetch share."""

_LEASE: Final = re.compile(r"lease_([0-9a-f]{3})[0-9a-f]{15}_[0-9]{1,9}")


def new_prefix(shard: Shard) -> bytes:
    """Return what the lease ids of one fetch from ``shard`` begin with."""
    return b"lease_%03x%b_" % (shard.index, os.urandom(8).hex()[:15].encode())


def shard_of_lease(keys: Keyspace, lease_id: str | None) -> Shard | None:
    """Return the shard that gave a lease, None where the id is none of ours."""
    found = _LEASE.fullmatch(lease_id or "")
    index = len(keys) if found is None else int(found[1], 16)
    return keys.shard(index) if index < len(keys) else None
