"""What the server adds to a job's envelope stands there once, whatever the client has sent."""

from __future__ import annotations

import json

import pytest

from ojs_cluster.core.jobs.envelope import SYSTEM_FIELDS, parse_job
from ojs_cluster.core.jobs.options import TOP_LEVEL
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground import job_fields as f
from tests.store.shortcuts import home_id

OF_THE_HEAD = {"specversion", "id", "type", "queue", "priority", "max_attempts"}
EVERYTHING = {
    **dict.fromkeys(
        (
            *(f.MAX_ATTEMPTS, f.PRIORITY, f.CREATED, f.ENQUEUED, f.STARTED, f.FINISHED, f.DUE),
            *(f.SCHEDULED_SHOWN, f.EXPIRES_SHOWN, f.ATTEMPT, f.DELAY, f.ERRORS, f.REPLAYS),
            *(f.WORKFLOW, f.STEP, f.WORKER, f.LEASE),
        ),
        b"1",
    ),
    f.ENVELOPE: b'"args":[]',
    f.TYPE: b"t",
    f.QUEUE: b"q",
    f.ERROR_SLOT + b"0": b'1,1,{"code":"c"',
    f.RESULT: b"1",
    f.PARENTS: b"[1]",
    f.PARENT_NAMES: b'["a"]',
}


def names(record: JobRecord) -> list[str]:
    members: list[tuple[str, object]] = json.loads(record.json(lease=True), object_pairs_hook=list)
    return [name for name, _ in members]


@pytest.mark.parametrize("state", State)
def test_what_the_server_writes_no_client_can(state: State) -> None:
    written = names(JobRecord("i", {**EVERYTHING, f.STATE: state.value.encode()}))

    assert len(written) == len(set(written))
    assert {"attempt", "errors", "parent_results_by_id", "replay_count"} <= set(written)
    assert set(written) - OF_THE_HEAD - {"args"} <= SYSTEM_FIELDS | TOP_LEVEL


async def test_an_attribute_of_the_servers_is_dropped_from_what_a_client_sends(
    store: Store,
) -> None:
    known = {"replay_count", "parent_results_by_id", *SYSTEM_FIELDS} - {"specversion"}
    sent = dict.fromkeys(known, "mine")
    job = parse_job(json.dumps({"id": home_id(store), "type": "t", "args": [], **sent}).encode())
    more = [f.REPLAYS, b"1", f.WORKFLOW, b"w", f.STEP, b"0", f.PARENTS, b"[1]"]
    stored = await enqueue(store, job, fields=[*more, f.PARENT_NAMES, b'["a"]'])

    shown = names(stored)

    assert len(shown) == len(set(shown))
    assert b"mine" not in stored.json()
