"""Store several jobs, each on its own (spec: ojs-bulk-operations 5.3, mode ``partial``)."""

from __future__ import annotations

from collections.abc import Sequence

from ojs_cluster.core.errors import BackendUnavailable, OJSError
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.tenants.admission import Admitted
from ojs_cluster.store.ground.fanout import run_concurrently


async def enqueue_each(
    store: Store, jobs: Sequence[NewJob], fields: Sequence[bytes] = ()
) -> list[JobRecord | OJSError]:
    """Store each job that can be stored. The jobs of a queue keep their order.

    All jobs are first tried as one batch, which is faster. If a job prevents that, the batch has
    stored none, and the jobs are stored one by one. The limits of a tenant that has admitted the
    batch do not count them again.

    Args:
        store: the store.
        jobs: the jobs.
        fields: names and values of further fields of each job's hash.

    Returns:
        For each job its record, or the error that prevented it.

    Raises:
        BackendUnavailable: of no job it is known whether it is refused or stored. If some may be
            stored, the ``outcome`` is not ``not_applied``.
        UnderMaintenance: maintenance mode is on.
    """
    admitted: Admitted = {}
    try:
        return list(await enqueue_many(store, jobs, fields, admitted))
    except OJSError as error:
        # Such an error is of Redis or of maintenance mode, and not of a job. Jobs may be stored.
        if "outcome" in error.details:
            raise
    outcomes: dict[int, JobRecord | OJSError] = {}
    by_queue: dict[str, list[int]] = {}
    for index, job in enumerate(jobs):
        by_queue.setdefault(job.queue, []).append(index)

    async def enqueue_in_turn(queue: str) -> None:
        for index in by_queue[queue]:
            try:
                job = jobs[index]
                # A copy: what a tenant admits for one job is not admitted for the next.
                outcomes[index] = await enqueue(store, job, fields=fields, admitted=dict(admitted))
            except OJSError as error:
                outcomes[index] = error

    await run_concurrently(by_queue, enqueue_in_turn)
    results = [outcomes[index] for index in range(len(jobs))]
    _raise_if_unavailable(results)
    return results


def _raise_if_unavailable(results: Sequence[JobRecord | OJSError]) -> None:
    """Raise the error of one job if Redis answered for none."""
    errors = [result for result in results if isinstance(result, BackendUnavailable)]
    if errors and len(errors) == len(results):
        raise next((error for error in errors if error.outcome != "not_applied"), errors[0])
