"""The suites on a standalone Valkey with the fast lane switched off: hypercorn serves all."""

from __future__ import annotations

from tests.conformance.dsl.case import Case
from tests.conformance.run import run_suite

TOPOLOGY = "valkey-hypercorn"


def test_suite(target: str, case: Case) -> None:
    run_suite(target, case)
