"""How long and with which seeds the suite runs: `--chaos-seed` and OJS_CHAOS_SECONDS."""

from __future__ import annotations

import os
import random
from typing import Final

import pytest

USUAL_S: Final = 300.0
SECONDS: Final = float(os.environ.get("OJS_CHAOS_SECONDS", USUAL_S))
"""For all variants together: 5 minutes unless set (`make soak` sets hours)."""
ROUNDS: Final = max(1, round(SECONDS / USUAL_S))
"""More time is spent on more seeds."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option by which a run that failed is repeated."""
    parser.addoption(
        "--chaos-seed",
        type=int,
        default=None,
        help="seed of tests/chaos, as a failure prints it; a new one each time unless given",
    )


def seed_of(config: pytest.Config, round_: int) -> int:
    """The seed of a round: the one that was given, or one that nobody has tried before."""
    given = config.getoption("--chaos-seed")
    if given is not None:
        return int(given) + round_
    return random.SystemRandom().randrange(1 << 32)
