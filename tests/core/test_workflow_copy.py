"""The request for a copy of a workflow creates the same workflow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from ojs_cluster.core.workflow import Plan
from ojs_cluster.core.workflow_copy import copy_request
from ojs_cluster.core.workflow_request import parse_workflow

A = {"type": "a.a", "args": [12345678901234567890123]}
B = {"type": "a.b", "args": [{"x": "y"}], "options": {"queue": "other", "priority": 3}}
C = {"type": "a.c"}
REQUESTS: dict[str, dict[str, Any]] = {
    "chain": {"type": "chain", "name": "order \u00fc", "steps": [A, B, C]},
    "group": {"type": "group", "jobs": [A, B]},
    "batch": {
        "type": "batch",
        "jobs": [A, B],
        "callbacks": {"on_complete": C, "on_failure": {**C, "id": "sorry"}},
    },
    "graph by names": {
        "steps": [
            {**A, "id": "one"},
            {**B, "name": "two", "depends_on": ["one"]},
            {**C, "id": "three", "depends_on": ["one", "two"]},
        ]
    },
    "chain with a further dependency": {
        "type": "chain",
        "steps": [{**A, "id": "one"}, B, {**C, "depends_on": ["one"]}],
    },
    "nested": {
        "type": "chain",
        "steps": [
            A,
            {"type": "group", "id": "both", "jobs": [B, {"type": "chain", "steps": [A, C]}]},
            C,
        ],
    },
    "callback of one step": {
        "type": "dag",
        "steps": [
            {**A, "id": "step-2"},
            {**B, "depends_on": ["step-2"], "id": "last"},
            {**C, "options": {"callback_type": "on_failure"}, "depends_on": ["last"]},
        ],
    },
    "options for all": {"type": "chain", "options": {"queue": "all"}, "steps": [A, B]},
    "batch of the Go SDK": {
        "steps": [{**A, "id": "1"}, {**B, "id": "2"}, {**C, "id": "on-complete"}]
    },
}


def without_labels(plan: Plan) -> list[Any]:
    return [
        msgspec.structs.replace(node, label="", deps=tuple(sorted(node.deps)))
        for node in plan.nodes
    ]


@pytest.mark.parametrize("request_name", REQUESTS)
def test_a_copy_has_the_same_steps_jobs_and_labels(request_name: str) -> None:
    original = parse_workflow(json.dumps(REQUESTS[request_name]).encode())
    body = copy_request(original.name, original.plan, original.definitions)
    copied = parse_workflow(body)
    assert (copied.type, copied.name) == (original.type, original.name)
    assert without_labels(copied.plan) == without_labels(original.plan)
    for before, after in zip(original.plan.nodes, copied.plan.nodes, strict=True):
        assert not before.label or after.label == before.label
    for old, new in zip(original.definitions, copied.definitions, strict=True):
        assert members_of(new) == members_of(old)


def members_of(definition: bytes) -> Any:
    """Return the members of a job; that it is a callback is in the plan."""
    members = msgspec.json.decode(definition, type=dict[str, msgspec.Raw])
    options = msgspec.json.decode(members.pop("options", b"{}"), type=dict[str, msgspec.Raw])
    options.pop("callback_type", None)
    return members, options


def test_steps_without_labels_that_others_wait_for_get_labels_of_their_own() -> None:
    original = parse_workflow(json.dumps(REQUESTS["graph by names"]).encode())
    nodes = [msgspec.structs.replace(node, label="") for node in original.plan.nodes]
    nodes[3] = msgspec.structs.replace(nodes[3], label="step-1")
    copied = parse_workflow(copy_request("", Plan(nodes), original.definitions))
    assert without_labels(copied.plan) == without_labels(original.plan)
    assert len({node.label for node in copied.plan.jobs}) == 3


def test_a_copy_of_damaged_data_is_refused() -> None:
    original = parse_workflow(json.dumps(REQUESTS["chain"]).encode())
    with pytest.raises(ValueError, match="cannot be written"):
        copy_request("", original.plan, [*original.definitions[:-1], b'{"type":"b.b","args":[]}'])


def test_a_copy_has_no_uniqueness_and_no_times() -> None:
    """Otherwise its steps would be duplicates, wait, or expire."""
    own = {
        "unique": {"key": ["type"], "period": "PT1H"},
        "scheduled_at": "2030-01-01T00:00:00Z",
        "expires_at": "2030-01-02T00:00:00Z",
    }
    delayed = {**own, "delay_until": "2030-01-01T00:00:00Z", "queue": "other"}
    steps = [{**A, **own}, {**B, "options": delayed}]
    body = copy_request("", *_parsed({"type": "group", "jobs": steps}))
    plain = {"type": "group", "jobs": [A, {**B, "options": {"queue": "other"}}]}
    assert json.loads(body) == json.loads(copy_request("", *_parsed(plain)))
    callback = {**C, "options": {**delayed, "callback_type": "on_failure"}}
    body = copy_request("", *_parsed({"type": "dag", "steps": [A, callback]}))
    assert json.loads(body)["steps"][1]["options"] == {
        "queue": "other",
        "callback_type": "on_failure",
    }


def _parsed(request: dict[str, Any]) -> tuple[Plan, Sequence[bytes]]:
    found = parse_workflow(json.dumps(request).encode())
    return found.plan, found.definitions
