"""The previous version, which all tests of this folder need."""

from __future__ import annotations

import pytest

from tests.upgrade.previous_version import (
    NotAvailable,
    PreviousVersion,
    commit_of_previous,
    previous_version,
)


@pytest.fixture(scope="session")
def previous() -> PreviousVersion:
    """Return the previous version; skip if this checkout does not have it."""
    try:
        return previous_version(commit_of_previous())
    except NotAvailable as problem:
        pytest.skip(str(problem))
