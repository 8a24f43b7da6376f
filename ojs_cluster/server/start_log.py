"""The log of a process at its start: how it is written, and what it says about the settings."""

from __future__ import annotations

import logging
import platform
import sys

from ojs_cluster.server.config.load import Settings
from ojs_cluster.server.config.settings import MIN_STRONG_KEY_LENGTH
from ojs_cluster.server.interpreter import SLOW_BUILD_COST, runs_on_slow_build
from ojs_cluster.server.logs import configure_logging

log = logging.getLogger("ojs.server")


def start_logging(settings: Settings, process: str) -> None:
    """Configure the log of this process."""
    configure_logging(
        settings.log.level, settings.log.format, process=process, secrets=settings.secrets
    )


def log_unusual_settings(settings: Settings) -> None:
    """Log a warning for each risky setting.

    Only the parent process calls this, so each warning is logged once.
    """
    access = settings.access
    if access.allow_insecure and not access.keys and not access.keys_file:
        log.warning("serving WITHOUT AUTHENTICATION: every client that can connect has all rights")
    if access.weak_keys:
        log.warning(
            "%s: the API key is shorter than %d characters and may be guessed; create an API key "
            "with `openssl rand -hex 32` (OJS_REQUIRE_STRONG_KEYS=1 refuses weak API keys)",
            access.weak_keys,
            MIN_STRONG_KEY_LENGTH,
        )
    if settings.http.test_hooks:
        log.warning("OJS_TEST_HOOKS is on: every client with an API key can delete all data")
    log_warnings(settings)


def log_warnings(settings: Settings) -> None:
    """Log variables that have no effect, and whether this Python was built without optimization."""
    for line in settings.warnings:
        log.warning("%s", line)
    if runs_on_slow_build():
        log.info(
            "this Python %s was built without profile-guided optimization: a request costs at "
            "least %s times as much CPU time (%s)",
            platform.python_version(),
            SLOW_BUILD_COST,
            sys.executable,
        )
