"""The notes of a release are its section of the changelog."""

from __future__ import annotations

import pytest

from tests.distributions.notes import notes

CHANGELOG = """# Changelog

## 2.0.0 (2027-01-31)

It has [traces](docs/tracing.md).

### Fixed

- A bug.

## 1.10.0 (unreleased)

- Other.

## 1.1.0 (2026-01-31)

## 1.0.0

- First.
"""


def test_a_release_has_its_section_with_links_to_its_tag() -> None:
    assert notes(CHANGELOG, "2.0.0", "https://code.example/a/b") == (
        "It has [traces](https://code.example/a/b/blob/v2.0.0/docs/tracing.md).\n\n"
        "### Fixed\n\n- A bug.\n"
    )
    assert notes(CHANGELOG, "2.0.0", None).startswith("It has traces.")


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("1.10.0", "has no date"),
        ("1.1.0", "is empty"),
        ("1.0.0", "has no date"),
        ("1.1", "no section"),
        ("3.0.0", "no section"),
    ],
)
def test_a_version_without_a_dated_section_is_not_released(version: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        notes(CHANGELOG, version, None)
