"""Report at the end of a run which tests were tried again, and why the earlier tries failed."""

from __future__ import annotations

from typing import Final

import pytest

NAME: Final = "second try"
"""The property in which such a test records the failure of each failed try."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List these tests, whether the last try passed or not."""
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
            terminalreporter.line(f"{nodeid}: a try failed:\n{why}", yellow=True)
