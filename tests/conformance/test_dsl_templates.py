"""References to earlier responses."""

from __future__ import annotations

import pytest

from tests.conformance.dsl.templates import Scope, UnresolvedTemplate, render, render_text

SCOPE = Scope(
    bodies={"step-1": {"job": {"id": "j1", "attempt": 2}, "jobs": [{"id": "j1"}]}, "s2": [1]},
    captures={"job_id": "j9", "list": [1, 2]},
)


def test_a_whole_string_becomes_the_value_itself() -> None:
    body = {
        "a": "{{steps.step-1.response.body.jobs}}",
        "b": ["{{steps.step-1.response.body.job.attempt}}"],
        "c": "{{steps.s2.response.body}}",
        "d": "${list}",
        "untouched": 1,
    }

    assert render(body, SCOPE) == {
        "a": [{"id": "j1"}],
        "b": [2],
        "c": [1],
        "d": [1, 2],
        "untouched": 1,
    }


def test_the_three_spellings_of_a_capture_mean_the_same() -> None:
    assert [render(text, SCOPE) for text in ("{{job_id}}", "${job_id}", "$ref.job_id")] == [
        "j9"
    ] * 3


def test_inside_a_longer_string_the_value_is_text() -> None:
    path = "/jobs/{{steps.step-1.response.body.jobs[0].id}}/${job_id}/${list}"

    assert render_text(path, SCOPE) == "/jobs/j1/j9/[1, 2]"


@pytest.mark.parametrize(
    "text",
    [
        "{{steps.step-3.response.body.job.id}}",
        "{{steps.step-1.response.body.job.result}}",
        "{{steps.step-1.response.body.nothing.at.all}}",
        "{{steps.step-1.response.headers.etag}}",
        "/jobs/{{other}}",
        "${other}",
        "$ref.other",
    ],
)
def test_what_cannot_be_resolved_is_an_error(text: str) -> None:
    with pytest.raises(UnresolvedTemplate):
        render(text, SCOPE)
