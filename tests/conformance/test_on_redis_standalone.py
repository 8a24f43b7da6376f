"""The suites on a standalone Redis, through the proxy."""

from __future__ import annotations

from tests.conformance.dsl.case import Case
from tests.conformance.run import run_suite

TOPOLOGY = "redis-standalone"


def test_suite(target: str, case: Case) -> None:
    run_suite(target, case)
