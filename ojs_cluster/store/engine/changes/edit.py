"""Edit a waiting job: its content, its priority, and when it is due or expires.

An edit replaces the whole envelope of the job, which is computed here from the one that was read.
So the script compares how often the job was edited and when it was created. An edit of another
client in between, or another job with the same id, makes this one read the job again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from ojs_cluster.core.errors import Conflict
from ojs_cluster.core.jobs.edit import EditedJob, JobEdit
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.args_validation import Effort, check_members
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.by_id import run_on_job
from ojs_cluster.store.engine.jobs.change_priority import change_priority
from ojs_cluster.store.engine.jobs.history_entries import UNKNOWN, Cause, history_arg
from ojs_cluster.store.engine.jobs.index_values import index_keys
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.placement import time_argument
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.off_loop import off_loop
from ojs_cluster.store.ground.runtime import Arg

_MAX_TRIES: Final = 4


async def edit(
    store: Store,
    job_id: str,
    change: JobEdit,
    cause: Cause = UNKNOWN,
    check: Callable[[JobRecord], None] | None = None,
) -> tuple[JobRecord, list[str]]:
    """Change members of a waiting job. Repeating it changes nothing, except relative times.

    Args:
        store: the store.
        job_id: the job.
        change: the change.
        cause: who changes the job, for its history.
        check: called with each job that the edit reads, unless it changes only the priority. It
            raises an error if the job must not be changed. A client may reuse the id of a deleted
            job, so a check before the edit may have been that of another job.

    Returns:
        The job, and warnings about its args, as ``check_args`` returns them.

    Raises:
        NotFound: no such job.
        Conflict: the job is active or terminal, or it does not allow the change; nothing changed.
        ArgsRefused: the args do not match the schema of the type.
        PayloadTooLarge: the job would be too large.
        ValidationFailed: the job has had too many attempts.
        BackendUnavailable: Redis did not answer in time.
    """
    if change.changes_only_priority:
        return await change_priority(store, job_id, change.options.priority, cause), []
    effort = Effort()
    for tries_left in reversed(range(_MAX_TRIES)):
        job = await read_jobs.get(store, job_id)
        if check is not None:
            check(job)
        stored = job.fields[f.ENVELOPE]
        if stored.startswith(b"{"):
            what = "was imported in a form that cannot be edited"
            raise Conflict(f"job '{job_id}' {what}", job_id=job_id)
        edited = await off_loop(partial(change.apply, stored, job.attempt), len(stored))
        warnings = []
        if "args" in change.given:
            warnings = await check_members(store, job.type, edited.envelope, effort)
        try:
            changed = await run_on_job(
                store,
                "edit_job",
                job_id,
                ("due", "expiring"),
                _arguments(store, job, change, edited, history_arg(store, cause)),
                idempotent=True,
                more_keys=partial(index_keys, store.settings, envelope=edited.envelope),
            )
        except Conflict as conflict:
            if conflict.details.get("reason") != "edited" or not tries_left:
                raise
        else:
            return changed, warnings
    raise RuntimeError("unreachable: the last try raises or returns")


def _arguments(
    store: Store, job: JobRecord, change: JobEdit, edited: EditedJob, history: Arg
) -> list[Arg]:
    """Return ARGV of ``edit_job.lua``."""
    options = change.options
    fields: list[Arg] = [f.ENVELOPE, edited.envelope]
    if edited.max_attempts is not None:
        fields += (f.MAX_ATTEMPTS, edited.max_attempts)
    if options.timeout_ms:
        fields += (f.TIMEOUT, options.timeout_ms)
    return [
        job.fields.get(f.EDITS) or b"0",
        options.priority if "priority" in change.given else "",
        time_argument(options.scheduled),
        "-" if change.removes("expires_at") else time_argument(options.expires),
        "content" if change.changes_content else "",
        "no_timeout" if "timeout_ms" in change.given and not options.timeout_ms else "",
        job.fields[f.CREATED],
        history,
        store.settings.search_index_retention_ms,
        *fields,
    ]
