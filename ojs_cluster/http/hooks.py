"""Test hooks: behaviour that conformance suites request by keys in the ``meta`` of a job.

They are off by default: in production they would let any producer stop any worker.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import orjson

from ojs_cluster.core.errors import NotFound, ValidationFailed
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs

_DIRECTIVES: Final = frozenset({"quiet", "terminate"})


def validate_if_marked(job: NewJob) -> None:
    """Check that a job has args if its ``meta.ojs_validate`` is true.

    Raises:
        ValidationFailed: the job has no args.
    """
    envelope = _loads(b"{%b}" % job.body)
    if _meta(envelope).get("ojs_validate") is True and envelope.get("args") == []:
        raise ValidationFailed("this job asked to be validated and has no args", field="args")


async def find_test_directive(store: Store, worker_id: str, job_ids: Iterable[str]) -> str | None:
    """Return the ``meta.test_directive`` of the worker's first active job that has one."""
    for job_id in job_ids:
        try:
            job = await read_jobs.get(store, job_id)
        except NotFound:
            continue
        if job.state is State.ACTIVE and job.worker_id == worker_id:
            directive = _meta(_loads(job.json())).get("test_directive")
            if directive in _DIRECTIVES:
                return str(directive)
    return None


def _loads(raw: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:  # orjson rejects valid numbers that do not fit into a double
        return {}
    return value if isinstance(value, dict) else {}


def _meta(envelope: dict[str, Any]) -> dict[str, Any]:
    meta = envelope.get("meta")
    return meta if isinstance(meta, dict) else {}
