"""The documentation as a site."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site. A link to a page or a heading that does not exist fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    environment = {**os.environ, "OJS_REPOSITORY": "https://forge.example/jobs"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_of_the_documentation_is_reached_from_the_navigation(site: Path) -> None:
    start = (site / "index.html").read_text()
    missing = [
        page.stem
        for page in (ROOT / "docs").rglob("*.md")
        if page.name != "README.md" and f"{page.stem}/" not in start
    ]
    assert missing == []


def test_texts_outside_the_folder_are_pages_and_programs_lead_to_the_repository(site: Path) -> None:
    limits = (site / "guide/rate-limits/index.html").read_text()
    assert 'href="https://forge.example/jobs/blob/main/examples/rate_limited.py"' in limits
    assert "Keep a Changelog" in (site / "changelog/index.html").read_text()
    assert 'href="start/"' in (site / "index.html").read_text()


def test_the_viewer_shows_the_document_of_the_server(site: Path) -> None:
    document = json.loads((site / "openapi.json").read_text())
    assert "/ojs/v1/jobs" in document["paths"]
    assert "swagger" in (site / "api-viewer/index.html").read_text()
