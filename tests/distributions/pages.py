"""README and addresses of a package as its page on the index needs them.

Links in the repository are relative. The page of the index has no files beside it, so links lead to
the repository, at the tag of the version. A build without the address of a repository leaves their
texts.
"""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
from pathlib import Path

_RELATIVE = r"(?![a-z][a-z+.-]*:|#)"
_LINK = re.compile(rf"(!?)\[([^\]]*)\]\({_RELATIVE}([^)\s]+)\)")
_IMAGE = re.compile(rf'\b(src|srcset)="{_RELATIVE}([^"]+)"')
_PICTURE = re.compile(r"<picture>.*?</picture>\n*", re.DOTALL)
_REMOTE = re.compile(r"(?:https://|(?:ssh://)?git@)([\w.-]+\.\w+)[/:](.+?)(?:\.git)?/?")


def repository(root: Path) -> str | None:
    """Return the address of the repository: that of the workflow, or of the remote ``origin``."""
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return f"{os.environ['GITHUB_SERVER_URL']}/{name}"
    command = ["git", "remote", "get-url", "origin"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    found = _REMOTE.fullmatch(done.stdout.strip())
    return f"https://{found[1]}/{found[2]}" if found else None


def readme(text: str, folder: Path, url: str | None, version: str) -> str:
    """Return a README without relative links.

    Args:
        text: the README.
        folder: its folder in the repository.
        url: the address of the repository; None to leave only the texts of links.
        version: the version, whose tag the links lead to.
    """
    if url is None:
        text = _PICTURE.sub("", text)
        return _LINK.sub(lambda link: "" if link[1] else link[2], text)

    def address(path: str, kind: str) -> str:
        return f"{url}/{kind}/v{version}/{posixpath.normpath(posixpath.join(folder, path))}"

    text = _IMAGE.sub(lambda found: f'{found[1]}="{address(found[2], "raw")}"', text)
    return _LINK.sub(
        lambda link: f"{link[1]}[{link[2]}]({address(link[3], 'raw' if link[1] else 'blob')})",
        text,
    )


def urls(url: str | None, version: str) -> str:
    """Return the table ``project.urls`` of a pyproject.toml; empty without an address."""
    if url is None:
        return ""
    tag = f"{url}/blob/v{version}"
    addresses = {
        "Homepage": url,
        "Documentation": f"{tag}/docs/README.md",
        "Changelog": f"{tag}/CHANGELOG.md",
        "Source": url,
        "Issues": f"{url}/issues",
    }
    lines = [f'{name} = "{address}"' for name, address in addresses.items()]
    return "\n".join(["", "[project.urls]", *lines, ""])
