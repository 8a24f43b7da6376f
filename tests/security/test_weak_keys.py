"""A weak key causes a warning or an error, and is never logged."""

from __future__ import annotations

import logging

import pytest

from ojs_cluster.server.commands.serve import check_serving
from ojs_cluster.server.config.load import ConfigError, load
from ojs_cluster.server.start_log import log_unusual_settings

STRONG = "0123456789abcdef" * 2
WEAK = STRONG[:31]


def test_a_weak_key_is_warned_of_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    settings = load({"OJS_API_KEY": WEAK, "OJS_API_KEYS": f"{STRONG},{WEAK[:-1]}"})
    check_serving(settings)
    with caplog.at_level(logging.WARNING):
        log_unusual_settings(settings)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("OJS_API_KEY, OJS_API_KEYS (key 2): the API key is shorter than 32")
    assert WEAK[:-1] not in line


def test_strong_keys_cause_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        log_unusual_settings(load({"OJS_API_KEY": STRONG, "OJS_API_KEYS": STRONG[::-1]}))
    assert not caplog.records


def test_weak_keys_can_be_refused() -> None:
    given = {"OJS_API_KEYS": f"{STRONG},{WEAK}", "OJS_REQUIRE_STRONG_KEYS": "1"}
    with pytest.raises(ConfigError) as refused:
        check_serving(load(given))
    (problem,) = refused.value.problems
    assert problem.startswith("OJS_API_KEYS (key 2): shorter than 32 characters")
    assert WEAK not in problem
    check_serving(load({**given, "OJS_API_KEYS": STRONG}))
