"""The parts of the documentation site that are not files in docs/. A hook of mkdocs.

The site has the pages of docs/, in the order of docs/README.md, a page for each text outside docs/
to which they link, such as CHANGELOG.md, and a viewer of the OpenAPI document. Links to programs
and folders lead to the repository, whose address ``OJS_REPOSITORY`` names; without it they are
plain text.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from ojs_cluster.http.openapi.document import build_document
from ojs_cluster.http.routes.all_routes import FAMILIES

_ROOT: Final = Path(__file__).parents[2]
_OUTSIDE: Final = {
    "README.md": "start.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/README.md": "examples.md",
    "helm/ojs-cluster/README.md": "chart.md",
    "helm/ojs-cluster/UPGRADING.md": "chart-upgrading.md",
    "tests/clients/README.md": "clients.md",
}
"""Texts outside docs/, by the names of their pages."""
_VIEWER: Final = "api-viewer.md"
_LINK: Final = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")
_ENTRY: Final = re.compile(r"^## (.+)$|\[([^\]]+)\]\(([^)#]+)\)", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the order of the pages from docs/README.md."""
    nav: list[Any] = [{"Documentation": "README.md"}, {"Start": "start.md"}]
    pages: list[Any] = []
    for title, name, path in _ENTRY.findall((_ROOT / "docs/README.md").read_text()):
        if title:
            pages = []
            nav.append({title: pages})
        elif (target := _page_of("docs/README.md", path)) is not None:
            pages.append({name[0].upper() + name[1:]: target})
            if target == "api.md":
                pages.append({"API viewer": _VIEWER})
    decisions = sorted((_ROOT / "docs/adr").glob("*.md"))
    nav.append({"Decisions": [f"adr/{path.name}" for path in decisions]})
    nav.append({"Changes": "changelog.md"})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for source, name in _OUTSIDE.items():
        files.append(File.generated(config, name, content=(_ROOT / source).read_text()))
    document = json.dumps(build_document(FAMILIES))
    files.append(File.generated(config, "openapi.json", content=document))
    viewer = '# API viewer\n\n<swagger-ui src="openapi.json"/>\n'
    files.append(File.generated(config, _VIEWER, content=viewer))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to pages of the site, or to the repository."""
    name = page.file.src_uri
    source = next((path for path, given in _OUTSIDE.items() if given == name), f"docs/{name}")

    def moved(link: re.Match[str]) -> str:
        anchor = link["anchor"] or ""
        target = _page_of(source, link["path"])
        if target is not None:
            back = "../" * name.count("/")
            return f"{link['text']}({back}{target}{anchor})"
        outside = _resolved(source, link["path"])
        if not (_ROOT / outside).exists():
            return link[0]  # mkdocs names it
        if repository := os.environ.get("OJS_REPOSITORY"):
            return f"{link['text']}({repository}/blob/main/{outside}{anchor})"
        return link["text"][1:-1]

    return _LINK.sub(moved, markdown)


def _page_of(source: str, link: str) -> str | None:
    """Return the page or file of the site to which a link in a file of the repository leads."""
    path = _resolved(source, link)
    if path in _OUTSIDE:
        return _OUTSIDE[path]
    if path.startswith("docs/") and (_ROOT / path).is_file():
        return path.removeprefix("docs/")
    return None


def _resolved(source: str, link: str) -> str:
    """Return the path from the root of the repository to which a link in a file leads."""
    path = PurePosixPath(source).parent / link
    return os.path.normpath(path)
