"""Product timeouts that a busy machine does not reach."""

from __future__ import annotations

from tests.http.conftest import patience

__all__ = ["patience"]
