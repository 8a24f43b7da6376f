"""The notes of a release: its section of the changelog, with links that lead to its tag.

python -m tests.distributions.notes FILE
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from ojs_cluster import __version__
from tests.distributions import pages

ROOT = Path(__file__).parent.parent.parent


def notes(changelog: str, version: str, url: str | None) -> str:
    """Return the section of a version as the notes of its release.

    Args:
        changelog: the text of the changelog.
        version: the version.
        url: the address of the repository; None to leave only the texts of links.

    Raises:
        ValueError: the version has no section, no date or no text.
    """
    sections = re.split(r"^## ", changelog, flags=re.MULTILINE)
    for title, _, text in (section.partition("\n") for section in sections[1:]):
        name, _, rest = title.partition(" ")
        if name != version:
            continue
        if not re.fullmatch(r"\(\d{4}-\d\d-\d\d\)", rest):
            raise ValueError(f"the section {title!r} of the changelog has no date, as (2026-12-31)")
        if not text.strip():
            raise ValueError(f"the section {title!r} of the changelog is empty")
        return pages.readme(text.strip() + "\n", Path(), url, version)
    raise ValueError(f"the changelog has no section of version {version}")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    try:
        text = notes((ROOT / "CHANGELOG.md").read_text(), __version__, pages.repository(ROOT))
    except ValueError as error:
        sys.exit(str(error))
    target.parent.mkdir(exist_ok=True)
    target.write_text(text)
