"""The API over a real Redis, for attacks that come through it."""

from __future__ import annotations

from tests.helm.conftest import chart
from tests.http.conftest import any_api, api, patience

__all__ = ["any_api", "api", "chart", "patience"]
