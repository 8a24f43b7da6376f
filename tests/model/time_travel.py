"""Let virtual time pass on a real server: move every deadline in Redis into the past.

The clock of Redis cannot be set, and a test cannot wait for minutes. A script that compares a
deadline with ``TIME`` sees no difference. The moves are not atomic: nothing else may run during
them.
"""

from __future__ import annotations

from typing import cast

import redis

from ojs_cluster.keys import Keyspace
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.ground import job_fields as f

_INDEXES = ("due", "active", "execution_deadlines", "expiring")
_TIMES = (f.DUE, f.EXPIRES, f.DEADLINE, f.STARTED)


def pass_time(backend: Embedded, ms: int, *, shards: int = 64) -> None:
    """Move all deadlines of jobs ``ms`` earlier, in the indexes and in the jobs.

    Retention, workers and leader leases keep their times.
    """
    indexes = {getattr(shard, name) for shard in Keyspace(shards) for name in _INDEXES}
    for node in backend.masters():
        with node.client() as client:
            for key in client.scan_iter(match="ojs:{*", count=1000):
                if key in indexes:
                    for member in cast(list[bytes], client.zrange(key, 0, -1)):
                        client.zincrby(key, -ms, member)
                elif key.partition(b"}:")[2].startswith(b"j:"):
                    _move_job(client, key, ms)


def _move_job(client: redis.Redis, key: bytes, ms: int) -> None:
    for name, value in zip(_TIMES, client.hmget(key, *_TIMES), strict=True):
        if value is not None:
            client.hset(key, name, int(value) - ms)
