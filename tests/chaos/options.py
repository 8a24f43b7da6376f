"""Duration and seeds of the suite: ``--chaos-seed`` and OJS_CHAOS_SECONDS."""

from __future__ import annotations

import os
import random
from typing import Final

import pytest

USUAL_S: Final = 80.0
SECONDS: Final = float(os.environ.get("OJS_CHAOS_SECONDS", USUAL_S))
"""Seconds for all variants together: 80 unless set (``make soak`` sets hours)."""
ROUNDS: Final = max(1, round(SECONDS / USUAL_S))
"""A longer run uses more seeds."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that repeats a failed run."""
    parser.addoption(
        "--chaos-seed",
        type=int,
        default=None,
        help="seed of tests/chaos, as a failure prints it; a new one each time unless given",
    )


def seed_of(config: pytest.Config, round_: int) -> int:
    """Return the seed of a round: the given one, or a new random one."""
    given = config.getoption("--chaos-seed")
    if given is not None:
        return int(given) + round_
    return random.SystemRandom().randrange(1 << 32)
