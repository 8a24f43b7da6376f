"""Tells at the end of a run which tests were given a second try, and why the first one failed."""

from __future__ import annotations

from typing import Final

import pytest

NAME: Final = "second try"
"""The property that such a test records, with the failure of the first try as its value."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name them all, whether the second try passed or not."""
    told = [
        (report.nodeid, str(value))
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == NAME
    ]
    if told:
        terminalreporter.section("tests that were given a SECOND TRY", yellow=True)
        for nodeid, why in told:
            terminalreporter.line(f"{nodeid}: the first try failed:\n{why}", yellow=True)
