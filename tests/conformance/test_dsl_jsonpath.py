"""The JSON paths of the suites: values, missing values, and errors."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.dsl.jsonpath import MISSING, PathError, resolve

DOCUMENT: dict[str, Any] = {
    "job": {
        "id": "a",
        "none": None,
        "args": [1, [2, 3]],
        "meta": {"ojs.codec.key_id": "k1", "ojs.codec.encodings": ["e1"], "ojs": {"x": 1}},
    },
    "jobs": [{"id": "a", "n": 1}, {"id": "b", "n": 2}],
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$.job.id", "a"),
        ("job.id", "a"),
        ("$", DOCUMENT),
        ("$.job.none", None),
        ("$.job.args[1][0]", 2),
        ('$.job.meta["ojs.codec.key_id"]', "k1"),
        ("$.job.meta['ojs.codec.key_id']", "k1"),
        ("$.jobs[*].id", ["a", "b"]),
        ("$.jobs[*]", DOCUMENT["jobs"]),
        ("$.jobs[?(@.id=='b')].n", 2),
        ("$.jobs[?(@.n==2)].id", "b"),
        ("$.job.meta.ojs.codec.key_id", "k1"),
        ("$.job.meta.ojs.codec.encodings[0]", "e1"),
        ("$.job.meta.ojs.x", 1),
    ],
)
def test_path_resolves_to_the_value(path: str, value: Any) -> None:
    assert resolve(path, DOCUMENT) == value


@pytest.mark.parametrize(
    "path", ["$.job.error", "$.jobs[2]", "$.jobs[?(@.id=='z')]", "$.job.meta.absent"]
)
def test_absence_at_the_end_of_a_path_is_missing(path: str) -> None:
    assert resolve(path, DOCUMENT) is MISSING


@pytest.mark.parametrize(
    "path",
    [
        "$.nothing.here",
        "$.jobs[2].id",
        "$.jobs[?(@.id=='z')].id",
        "$.job.none.x",
        "$.job.id.x",
        "$.job[0]",
        "$.jobs[*].absent",
        "$.jobs[",
        "$.jobs[x]",
    ],
)
def test_a_path_that_breaks_off_is_an_error(path: str) -> None:
    with pytest.raises(PathError):
        resolve(path, DOCUMENT)


def test_a_filter_that_matches_twice_is_an_error() -> None:
    with pytest.raises(PathError, match="2 elements"):
        resolve("$.jobs[?(@.id=='a')]", {"jobs": [{"id": "a"}, {"id": "a"}]})
