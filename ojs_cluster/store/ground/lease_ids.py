"""Lease ids: how a fetch creates them, and how to find the shard of a lease.

A lease id consists of ``lease_``, the shard's index as three hex digits, fifteen random hex digits,
``_`` and the job's position in the fetch. If an ack of the job needs ``ack_full.lua``, a ``0``
precedes the position, so any process runs that script at once. The index leads a holder to a job
whose id the client chose, without the alias in another shard (see ``store/engine/jobs/by_id.py``).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ojs_cluster.keys import Keyspace, Shard

PREFIX_BYTES: Final = len("lease_") + 3 + 15 + len("_")
"""Length of the prefix that all lease ids of one fetch have in common."""

_DIGITS: Final = tuple(f"{index:03x}" for index in range(16**3))
_LEASE_ID: Final = re.compile(r"lease_([0-9a-f]{3})[0-9a-f]{15}_[0-9]{1,9}")


def new_prefix(shard: Shard) -> bytes:
    """Return a new prefix for the lease ids of one fetch from ``shard``."""
    return b"lease_%03x%b_" % (shard.index, os.urandom(8).hex()[:15].encode())


def needs_full_ack(lease_id: str | None) -> bool:
    """Return whether the lease id says that ``ack.lua`` cannot complete the job."""
    return lease_id is not None and lease_id[PREFIX_BYTES : PREFIX_BYTES + 1] == "0"


def shard_of_lease(keys: Keyspace, lease_id: str | None) -> Shard | None:
    """Return the shard that granted a lease, None if no shard can have created the lease id."""
    match = _LEASE_ID.fullmatch(lease_id or "")
    if match is None:
        return None
    index = int(match[1], 16)
    return keys.shard(index) if index < len(keys) else None


def first_shard(keys: Keyspace, owner: Shard, lease_id: str | None) -> Shard:
    """Return the shard that granted a lease, ``owner`` if the lease id does not tell it."""
    if lease_id is None or lease_id[6:9] == _DIGITS[owner.index]:
        return owner  # the usual case, at the cost of a comparison
    return shard_of_lease(keys, lease_id) or owner
