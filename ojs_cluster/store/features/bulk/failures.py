"""Postpone bulk operations whose steps fail, and end those that do not get on.

Failures are counted since the last progress, so failures that lie hours apart end no operation.
Each kind has a limit of its own. A master that is away may come back after hours. A refusal may
end when the state of a queue or of Redis changes. Damaged data and faults of the program stay.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from ojs_cluster.core.errors import BackendUnavailable, OJSError
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.bulk_records import operations
from ojs_cluster.store.features.bulk_records.operation import DamagedOperation
from ojs_cluster.store.features.bulk_records.updates import PAUSE_MS, end_damaged, postpone
from ojs_cluster.store.features.queue_deletion.deletion import abandon

log = logging.getLogger("ojs.store")


@dataclass(frozen=True, slots=True)
class FailureKind:
    """A kind of failures of a step.

    Args:
        field: the field of the operation that counts them since its last progress.
        limit: the number of failures, ``PAUSE_MS`` apart or more, after which it has failed.
        reason: beginning of the reason that clients see.
    """

    field: str
    limit: int
    reason: str


SILENCE: Final = FailureKind("silences", 24 * 3_600_000 // PAUSE_MS, "no answer for at least a day")
REFUSAL: Final = FailureKind(
    "refusals", 10 * 60_000 // PAUSE_MS, "refused for at least ten minutes"
)
FAULT: Final = FailureKind("faults", 5, "it cannot be carried out")


async def postpone_or_end(store: Store, name: bytes, error: Exception, version: str = "") -> bool:
    """Count a failure of an operation's step; postpone the operation, or end it after too many.

    A deletion ends after its drain. While that cannot be ended, it is postponed. An operation that
    another process has continued meanwhile stays as that process has left it.

    Args:
        store: the store.
        name: id of the operation as stored, which may be damaged.
        error: why the step has failed.
        version: the version that the step has read or written last; '' if it has read none.

    Returns:
        Whether the operation has ended.

    Raises:
        BackendUnavailable: the master of the meta tag did not answer in time.
    """
    kind, shown = _kind_of(error)
    operation_id = name.decode(errors="replace")
    if kind is FAULT:
        log.error("bulk operation %s has met a fault", operation_id, exc_info=error)
    else:
        log.warning("bulk operation %s is postponed: %s", operation_id, shown)
    count = await postpone(store, name, version, kind.field)
    if count is None or count < kind.limit or not await _has_no_drain(store, operation_id, version):
        return False
    reason = DamagedOperation(f"{kind.reason}: {shown}")
    return await end_damaged(store, name, reason, version) > 0


def _kind_of(error: Exception) -> tuple[FailureKind, str]:
    match error:
        case BackendUnavailable():
            return SILENCE, error.message
        case OJSError():
            return REFUSAL, error.message
        case RedisReplyError():
            return REFUSAL, str(error)
    return FAULT, repr(error)


async def _has_no_drain(store: Store, operation_id: str, version: str) -> bool:
    """End the drain of a failing deletion; return False if it must be tried again later.

    Another process may have continued the deletion, if this one was stalled. Its drain stays.
    """
    try:
        operation = await operations.read(store, operation_id)
        if operation is not None and version not in ("", operation.version):
            return False
        if operation is not None and operation.deletion is not None:
            await abandon(store, operation.deletion)
    except (OJSError, RedisReplyError) as away:  # such as the shard of the queue
        log.warning("bulk operation %s is postponed: %s", operation_id, away)
        return False
    except Exception:  # a later try would meet the same fault
        log.exception("bulk operation %s cannot end the drain of its queue", operation_id)
    return True
