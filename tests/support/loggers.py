"""Loggers outlive a test: whoever leaves one changed changes what later tests hear."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

Setting = tuple[int, bool, bool]
"""Level, whether it is disabled, whether it hands on to its parents."""
UNTOUCHED: Setting = (logging.NOTSET, False, True)


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    """Fail the test that leaves one of our loggers changed, not the one that then hears nothing."""
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
