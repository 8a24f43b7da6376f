"""Run a transition of one job, which is found by its id.

If the caller names its lease, the shard that the lease id names is called first, and otherwise the
owner shard of the id. A job whose id a client chose may be stored in another shard. Then the owner
shard has an alias, and the call is repeated in the shard that the alias names. So a holder needs
neither the alias, which a failover may lose, nor the master that has it. If the job is prepared,
its transaction is finished first (see ``transactions``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ojs_cluster.core.errors import Conflict, MalformedJob, NotFound, OJSError
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.redis.client import SentScript
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.record import JobRecord, record
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.ground.lease_ids import first_shard
from ojs_cluster.store.ground.runtime import Arg

_MAX_CALLS = 6
"""Maximum number of calls for one transition.

The shard of the lease, the owner shard and the shard of the alias are called. Each may be called
twice: the full path follows the fast path, and a prepared job is tried again after its
transaction."""


class RecordChanged(Conflict):
    """Another client has changed a record of the job since the caller read it."""


class OfWorkflow(Conflict):
    """The job belongs to a workflow, which the caller must change first."""

    def __init__(self, job_id: str, workflow_id: str) -> None:
        super().__init__(_refusal_start(job_id) + "a step of a workflow", job_id=job_id)
        self.workflow_id = workflow_id


async def run_on_job(
    store: Store,
    name: str,
    job_id: str,
    shard_keys: Sequence[str],
    args: Sequence[Arg],
    *,
    idempotent: bool = False,
    lease_id: str | None = None,
    more_keys: Callable[[Shard], Sequence[bytes]] | None = None,
) -> JobRecord:
    """Run a transition of one job in the shard that stores the job.

    Args:
        store: the store.
        name: the script. The script of a fast path replies ``full_path`` when it cannot handle the
            job; then the script ``name`` with the suffix ``_full`` is run.
        job_id: the job.
        shard_keys: the attributes of ``keys.Shard`` whose keys follow the job in KEYS.
        args: ARGV.
        idempotent: whether the call may be repeated after a lost reply, as of ``Runtime.run``.
        lease_id: the caller's lease id, None when it names none. It says where the job is.
        more_keys: returns the last keys of KEYS in a shard.

    Returns:
        The job after the transition.

    Raises:
        NotFound: there is no such job.
        Conflict: the job's state or its holder does not allow the transition; nothing changed.
        MalformedJob: the job's stored fields are malformed; nothing changed.
        BackendUnavailable: Redis did not answer in time.
    """
    reply = await run_for_reply(
        store,
        name,
        job_id,
        shard_keys,
        args,
        idempotent=idempotent,
        lease_id=lease_id,
        more_keys=more_keys,
    )
    return record(job_id, reply[1])


async def run_for_reply(
    store: Store,
    name: str,
    job_id: str,
    shard_keys: Sequence[str],
    args: Sequence[Arg],
    *,
    idempotent: bool = False,
    lease_id: str | None = None,
    more_keys: Callable[[Shard], Sequence[bytes]] | None = None,
    sent: SentScript | None = None,
) -> Any:
    """Run a transition as ``run_on_job`` does, and return the reply of the script.

    The reply is a list or, from the fast path of some scripts, a text. ``sent`` is the first call,
    if it is sent already.
    """
    if not is_job_id(job_id):
        raise NotFound("job", job_id)
    owner = store.keys.shard_of_id(job_id)
    shard = leased_in = first_shard(store.keys, owner, lease_id)
    for _ in range(_MAX_CALLS):
        keys = keys_of(shard, job_id, shard_keys)
        if more_keys is not None:
            keys += more_keys(shard)
        if sent is None:
            reply: Any = await store.run(shard, name, keys, args, idempotent=idempotent)
        else:
            reply, sent = await store.redis.complete(sent), None
        status = b"ok" if isinstance(reply, bytes) else reply[0]
        if status == b"ok":
            if not isinstance(reply, bytes) and len(reply) > 2 and reply[2]:
                await deliver(store, shard, reply[2])
            return reply
        if status == b"full_path":
            name = f"{name}_full"
            continue
        if status == b"moved":
            shard = store.keys.shard(int(reply[1]))
            continue
        if status == b"prepared":
            await store.finish_transaction(store, shard, reply[1])
            continue
        if status != b"missing" or leased_in is owner:
            raise refusal(job_id, reply, shard)
        shard = leased_in = owner
    raise NotFound("job", job_id)


def keys_of(shard: Shard, job_id: str, shard_keys: Sequence[str]) -> list[bytes]:
    """Return KEYS of a transition of one job in a shard; arguments as of ``run_on_job``."""
    return [shard.job(job_id), *[getattr(shard, key) for key in shard_keys]]


async def restore_alias(store: Store, shard: Shard, job_id: str) -> bool:
    """Write the alias of a job that is stored in ``shard``, unless the id belongs to another job.

    Returns:
        Whether the id leads to ``shard`` now.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    owner = store.keys.shard_of_id(job_id)
    args: list[Arg] = [job_id, shard.index, 0, ""]
    reply = await store.run(
        owner, "claim_alias", [owner.job(job_id), owner.alias_claims], args, idempotent=True
    )
    return bool(reply[0] == b"ok")


def refusal(job_id: str, reply: Sequence[Any], shard: Shard) -> OJSError:
    """Return the error for the reply of a script that refused its transition.

    Args:
        job_id: the job.
        reply: the script's reply.
        shard: the shard that ran the script.
    """
    if reply[0] == b"conflict":
        state = reply[1].decode()
        return Conflict(_refusal_start(job_id) + state, job_id=job_id, state=state)
    if reply[0] == b"changed":
        return RecordChanged(_refusal_start(job_id) + "changed by another client", job_id=job_id)
    if reply[0] == b"of_workflow":
        return OfWorkflow(job_id, reply[1].decode())
    if reply[0] == b"draining":
        return is_draining(reply[1].decode())
    if reply[0] == b"held":
        return Conflict(f"the agent of job '{job_id}' is paused: resume it", job_id=job_id)
    if reply[0] == b"not_holder":
        return Conflict(_refusal_start(job_id) + _NOT_HOLDER, job_id=job_id)
    if reply[0] == b"refused":
        reason = reply[1].decode()
        return Conflict(_refusal_start(job_id) + REASONS[reason], job_id=job_id, reason=reason)
    if reply[0] == b"malformed":
        return MalformedJob(job_id, "fields are missing or not numbers", shard.index)
    return NotFound("job", job_id)


def is_draining(queue: str) -> Conflict:
    """Return the error for a job that would enter a queue that takes no new jobs."""
    return Conflict(f"queue '{queue}' is draining: it takes no new jobs", queue=queue)


def is_refusal(job_id: str, message: str) -> bool:
    """Return whether ``message`` is the message of a ``Conflict`` that ``refusal`` returns."""
    start = _refusal_start(job_id)
    # An ack of an active job is never refused for its state, so no refusal names that state.
    states = set(State) - {State.ACTIVE}
    return message.startswith(start) and message[len(start) :] in {_NOT_HOLDER, *states}


REASONS: Final[Mapping[str, str]] = {
    "edited": "edited by other requests at the same time",
    "scheduled": "not scheduled, so its scheduled_at cannot change",
    "unique": "unique, so its args and meta cannot change",
}
"""Why ``edit_job.lua`` refuses a waiting job, after the name of the job."""
_NOT_HOLDER = "held by another lease"


def _refusal_start(job_id: str) -> str:
    return f"job '{job_id}' is "
