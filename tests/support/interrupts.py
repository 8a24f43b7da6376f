"""Ctrl-C ends a test run, also in a test with a nursery.

A nursery raises ``KeyboardInterrupt`` in a group. pytest takes that for the failure of one test,
and would run the next one.
"""

from __future__ import annotations

from typing import Any

import pytest


def pytest_exception_interact(call: pytest.CallInfo[Any]) -> None:
    """Interrupt the run; its fixtures are torn down."""
    error = call.excinfo.value if call.excinfo is not None else None
    if isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt) is not None:
        raise KeyboardInterrupt
