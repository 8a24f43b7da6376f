"""Spellings and order of versions (spec: ojs-schema-registry 6)."""

from __future__ import annotations

import pytest

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.schemas.versions import SchemaVersion


def test_spellings_of_one_version_share_a_key() -> None:
    keys = {SchemaVersion.parse(text).key for text in ("2", "2.0", "2.0.0")}
    assert keys == {"2.0.0"}
    assert SchemaVersion.parse("2").shown == 2
    assert SchemaVersion.parse("2.0").shown == "2.0"


def test_the_order_is_that_of_semantic_versioning() -> None:
    ordered = ["1", "1.0.1", "1.2", "1.10", "2.0.0-1", "2.0.0-a", "2.0.0-a.1", "2.0.0-b", "2", "10"]
    shuffled = sorted(ordered)
    assert shuffled != ordered
    assert sorted(shuffled, key=lambda text: SchemaVersion.parse(text).order) == ordered


@pytest.mark.parametrize(
    "text", ["", "v1", "01", "1.", "1.2.3.4", "-1", "1-", "٣", "1" * 65, "1\n"]
)
def test_other_texts_are_no_versions(text: str) -> None:
    assert SchemaVersion.find(text) is None
    with pytest.raises(InvalidRequest):
        SchemaVersion.parse(text)
