"""Suite files as data: the parser understands every published file and ignores nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance import scope
from tests.conformance.dsl.case import Case, Step, load, parse
from tests.conformance.dsl.jsonpath import PathError
from tests.conformance.dsl.matchers import SuiteError

HEAD = {"test_id": "T-1", "level": 0, "category": "c", "name": "n", "description": "d"}
HEAD |= {"spec_ref": "s"}


def case(*steps: dict[str, Any], **more: Any) -> Case:
    return parse("t.json", {**HEAD, "tags": [], "steps": list(steps), **more})


def step(**keys: Any) -> Step:
    return case({"id": "s", "action": "POST", "path": "/p", **keys}).steps[0]


def test_every_published_file_is_understood() -> None:
    root = scope.suites_root()
    if root is None:
        pytest.skip(scope.HOW_TO_GET_SUITES)

    cases = [load(root, file) for file in scope.files(root, "all")]

    assert all(case.steps for case in cases)
    assert {case.file for case in cases} >= scope.IMPOSSIBLE.keys()


def test_a_folder_without_files_is_an_error_not_a_green_run() -> None:
    root = scope.suites_root()
    if root is None:
        pytest.skip(scope.HOW_TO_GET_SUITES)

    with pytest.raises(FileNotFoundError):
        list(scope.files(root, "level-0-kore"))


@pytest.mark.parametrize(
    "keys",
    [
        {"assertion": {}},
        {"assertions": {"statuses": 200}},
        {"assertions": {"body": {"$.a": "string:what"}}},
        {"assertions": {"body": {"$.a[": 1}}},
        {"assertions": {"body": {"$or": [], "$.a": 1}}},
        {"expect": {"stats": 200}},
        {"expect": {"status": 200}, "assertions": {"status": 200}},
        {"action": "FETCH"},
    ],
)
def test_what_is_not_understood_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises((SuiteError, PathError)):
        step(**keys)


def test_statuses_in_all_spellings_become_matchers() -> None:
    checks = step(
        assertions={"status": [200, 201], "status_in": [201], "status_one_of": [2]}
    ).checks

    assert checks.status == ({"$in": [200, 201]}, {"$in": [201]}, {"$in": [2]})


def test_expect_spells_a_body_check_in_two_ways() -> None:
    checks = step(expect={"status": 200, "body": {"a": 1}, "body.b.c": 2}).checks

    assert checks.bodies == ((("a", 1), ("b.c", 2)),)
    assert checks.subset


def test_operations_become_requests() -> None:
    push, get, ack = case(
        {"action": "push", "request": {"type": "t"}, "store": {"job_id": "id"}},
        {"action": "get", "request": {"id": "$ref.job_id"}},
        {"action": "ack", "request": {"id": "$ref.job_id", "worker_id": "w"}},
    ).steps

    assert (push.action, push.path, push.content) == ("POST", "/ojs/v1/jobs", {"type": "t"})
    assert push.captures == {"job_id": "id"}
    assert (get.action, get.path, get.content) == ("GET", "/ojs/v1/jobs/{{job_id}}", None)
    assert ack.content == {"worker_id": "w", "job_id": "$ref.job_id"}
    assert [push.operation, get.operation, ack.operation] == ["push", "get", "ack"]
