"""The suites on a standalone Valkey without the fast lane: hypercorn serves all requests."""

from __future__ import annotations

from collections.abc import Callable

from tests.conformance.dsl.case import Case
from tests.conformance.run import run_suite

TOPOLOGY = "valkey-hypercorn"


def test_suite(target: str, case: Case, record_property: Callable[[str, object], None]) -> None:
    run_suite(target, case, record_property)
