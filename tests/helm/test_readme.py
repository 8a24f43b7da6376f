"""helm/README.md says what values.yaml says."""

from __future__ import annotations

from tests.helm.values_table import README, readme


def test_the_readme_is_current() -> None:
    assert README.read_text() == readme(), "run: make chart-docs"
