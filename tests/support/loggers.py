"""Loggers outlive a test: a test that leaves one changed affects the logs of later tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

Setting = tuple[int, bool, bool]
"""Level, whether the logger is disabled, whether it propagates."""
UNTOUCHED: Setting = (logging.NOTSET, False, True)


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    """Fail a test that leaves one of our loggers changed, instead of a later test that logs
    nothing.
    """
    before = _settings()
    yield
    changed = {
        name: setting
        for name, setting in _settings().items()
        if setting != before.get(name, UNTOUCHED)
    }
    assert not changed, "a test left loggers changed"


def _settings() -> dict[str, Setting]:
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    return {
        each.name: (each.level, each.disabled, each.propagate)
        for each in loggers
        if isinstance(each, logging.Logger) and each.name.startswith(("root", "ojs"))
    }
