from __future__ import annotations

from ojs_cluster.core.errors import BackendUnavailable, InvalidRequest, NotFound


def test_an_error_names_the_field_and_leaves_out_what_is_unknown() -> None:
    error = InvalidRequest("bad", field="type", limit=3, other=None)
    assert (str(error), error.message, error.field) == ("bad", "bad", "type")
    assert error.details == {"limit": 3, "field": "type"}
    assert InvalidRequest("bad").field is None


def test_not_found_says_what_was_looked_for() -> None:
    error = NotFound("job", "x")
    assert error.details == {
        "resource": "job",
        "id": "x",
        "resource_type": "job",
        "resource_id": "x",
    }
    assert error.message == "job 'x' does not exist"


def test_an_unavailable_backend_says_whether_the_write_may_have_happened() -> None:
    error = BackendUnavailable("gone", outcome="unknown", retry_after_s=2.5)
    assert (error.outcome, error.retry_after_s) == ("unknown", 2.5)
    assert error.details == {"outcome": "unknown"}
