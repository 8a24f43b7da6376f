"""The list of the clients' lines is complete and current."""

from __future__ import annotations

from tests.clients.sources import README, page, sources


def test_every_test_says_which_line_of_a_client_it_stands_for() -> None:
    found = list(sources())
    assert len(found) > 90
    assert [f"{each.module}::{each.test}" for each in found if not each.is_named] == []


def test_the_list_is_current() -> None:
    assert README.read_text() == page(), "run python -m tests.clients.sources"
