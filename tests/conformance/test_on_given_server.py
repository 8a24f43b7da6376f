"""The suites on the server at --conformance-url; not collected without it."""

from __future__ import annotations

from tests.conformance.dsl.case import Case
from tests.conformance.run import run_suite

TOPOLOGY = None


def test_suite(target: str, case: Case) -> None:
    run_suite(target, case)
