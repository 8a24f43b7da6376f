"""The files of others in the wheel are exactly those that the manifest names."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest

from ojs_cluster.ui.static_files import FOLDER

VENDOR = FOLDER / "vendor"
LISTED = json.loads((VENDOR / "manifest.json").read_text())["files"]


@pytest.mark.parametrize("entry", LISTED, ids=[entry["file"] for entry in LISTED])
def test_a_vendored_file_is_what_its_author_published(entry: dict[str, str]) -> None:
    assert sha256((VENDOR / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    assert entry["version"] in entry["source"]
    assert entry["licence"]
    assert (VENDOR / entry["licence_file"]).read_text()


def test_no_vendored_file_is_unlisted() -> None:
    known = {"manifest.json"}
    known |= {entry[name] for entry in LISTED for name in ("file", "licence_file")}
    assert {path.name for path in VENDOR.iterdir()} == known
