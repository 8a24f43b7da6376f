"""Turn a job of another system into the line of an archive, which the import can store.

The job goes through the parser of enqueue requests, so the same rules apply to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from ojs_cluster.core.jobs.envelope import NewJob, parse_job
from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.payload_limits import PayloadLimits
from ojs_cluster.core.raw_json import Raw, join, object_members
from ojs_cluster.server.import_from.foreign_job import ForeignError, ForeignJob
from ojs_cluster.server.import_from.names import Names, default_queue_name
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.placement import place
from ojs_cluster.store.engine.unique.unique import lock_fields
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.operators.archive.line_values import JobLine

_RANDOM_BYTES = 10
"""Size of the random part of a job id."""


@dataclass(frozen=True, slots=True)
class ConvertedJob:
    """A job that follows the rules of an enqueue request.

    Args:
        source: the job in the other system.
        job: the job as a request would create it.
    """

    source: ForeignJob
    job: NewJob


def convert(system: str, source: ForeignJob, names: Names, limits: PayloadLimits) -> ConvertedJob:
    """Return the job as an enqueue request would create it.

    Args:
        system: name of the other system, for the job's ``meta.imported_from``.
        source: the job.
        names: names of types and queues.
        limits: size limits of this installation.

    Raises:
        OJSError: the job is not valid, for example because its arguments are too large.
    """
    origin = {"system": system, "id": source.source_id}
    origin |= {"type": source.type, "queue": source.queue}
    meta = {**(object_members(source.meta) or {}), "imported_from": Raw(orjson.dumps(origin))}
    request = {name: Raw(orjson.dumps(value)) for name, value in source.options.items()}
    request["type"] = Raw(orjson.dumps(names.type(source.type)))
    request["queue"] = Raw(orjson.dumps(names.queue(source.queue)))
    request["args"] = Raw(source.args)
    request["meta"] = Raw(b"{%b}" % join(meta))
    return ConvertedJob(source, parse_job(b"{%b}" % join(request), limits=limits))


def line_of(
    store: Store, system: str, converted: ConvertedJob, position: int, now_ms: int
) -> JobLine:
    """Return the line of an archive for a job.

    Args:
        store: the store that the job is for.
        system: name of the other system.
        converted: the job.
        position: position among the jobs of its queue, from 1.
        now_ms: Unix time in ms, the creation of a job whose own is not known.
    """
    source, job = converted.source, converted.job
    job_id = source.job_id or _derived_id(store, system, source)
    lock = lock_fields(job) if source.state is not State.DISCARDED else []
    names_and_values = place(job_id, job, lock).fields
    fields = dict(zip(names_and_values[::2], names_and_values[1::2], strict=True))
    created_ms = source.created_ms or source.finished_ms or now_ms
    fields[f.STATE] = source.state.value.encode()
    fields[f.QUEUE] = job.queue.encode()
    fields[f.CREATED] = b"%d" % created_ms
    if job.priority:
        fields[f.PRIORITY] = b"%d" % job.priority
    if source.attempt:
        fields[f.ATTEMPT] = b"%d" % source.attempt
    if job.expires:
        fields[f.EXPIRES] = b"%d" % job.expires.ms
    if source.due_ms is not None:
        fields[f.DUE] = b"%d" % source.due_ms
        if source.state is State.SCHEDULED:
            fields[f.SCHEDULED_SHOWN] = fields[f.DUE]
    removed_ms = None
    if source.state is State.DISCARDED:
        fields[f.FINISHED] = b"%d" % (source.finished_ms or now_ms)
        keep_ms = store.settings.retention_discarded_ms
        if source.dead_letter:
            fields[f.DEAD] = b"1"
            keep_ms = store.settings.retention_dead_ms
        removed_ms = now_ms + keep_ms
    return JobLine(
        job_id,
        fields,
        _stored_errors(source.errors),
        position if source.state is State.AVAILABLE else None,
        removed_ms,
        holds_lock=bool(lock),
    )


def _derived_id(store: Store, system: str, source: ForeignJob) -> str:
    """Return an id that is the same in every run, so a repeated import stores no job twice.

    It depends neither on the names that the operator chooses nor on the number of partitions. If it
    names another shard than that of the queue, the job gets an alias.
    """
    origin = "\0".join((system, source.queue, source.source_id, str(source.created_ms)))
    digest = hashlib.sha256(origin.encode(errors="surrogatepass")).digest()
    shard = store.keys.shard_of_queue(default_queue_name(source.queue))
    return new_job_id(shard.index, len(store.keys), source.created_ms or 0, digest[:_RANDOM_BYTES])


def _stored_errors(errors: Sequence[ForeignError]) -> tuple[tuple[int, int, bytes], ...]:
    return tuple((error.attempt, error.at_ms, _error_json(error)) for error in errors)


def _error_json(error: ForeignError) -> bytes:
    members: dict[str, object] = {"type": error.type, "message": error.message}
    if error.backtrace:
        members["backtrace"] = error.backtrace
    return parse_failure(Raw(orjson.dumps(members))).json + b"}"
