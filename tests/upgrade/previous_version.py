"""The previous version: its files from the history, and an environment that runs them."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from tests.support.nodes import Environment

ROOT: Final = Path(__file__).parents[2]
PREVIOUS: Final = Path(__file__).with_name("previous")
_PARTS: Final = ("ojs_cluster", "scheduler", "helm", "pyproject.toml")
_CLIENT: Final = Path("clients", "python")
_CACHE: Final = ROOT / ".cache" / "previous"


class NotAvailable(Exception):
    """The history of this checkout lacks the commit; the message says how to get it."""


@dataclass(frozen=True, slots=True)
class PreviousVersion:
    """The files of a commit, and the packages that it needs beside those of this environment.

    Attributes:
        commit: the full id.
        tree: the folder with its files.
        packages: folder with packages whose versions here do not satisfy it, or None.
    """

    commit: str
    tree: Path
    packages: Path | None

    @property
    def chart(self) -> Path:
        """Its Helm chart."""
        return self.tree / "helm" / "ojs-cluster"

    def environment(self) -> Environment:
        """Return variables with which ``ojs-cluster`` runs this version.

        The present version is installed in this environment, and ``PYTHONPATH`` comes before all
        installed packages.
        """
        folders = [self.tree, self.tree / "scheduler"]
        folders += [self.packages] if self.packages else []
        return {"PYTHONPATH": os.pathsep.join(map(str, folders))}


def commit_of_previous() -> str:
    """Return the commit that the file names."""
    return PREVIOUS.read_text().strip()


def previous_version(commit: str) -> PreviousVersion:
    """Extract a commit, once for all test runs, and install what it needs and we do not have.

    Raises:
        NotAvailable: this checkout does not have the commit.
    """
    tree = _CACHE / commit
    return PreviousVersion(commit, tree, _extracted(commit, tree, _PARTS, Path()))


def previous_client(commit: str) -> Environment:
    """Return variables with which programs import ``ojs_client`` of a commit.

    Raises:
        NotAvailable: this checkout does not have the commit.
    """
    tree = _CACHE / f"{commit}.client"
    packages = _extracted(commit, tree, (str(_CLIENT),), _CLIENT)
    folders = [tree / _CLIENT / "src", *([packages] if packages else [])]
    return {"PYTHONPATH": os.pathsep.join(map(str, folders))}


def _extracted(commit: str, tree: Path, parts: tuple[str, ...], project: Path) -> Path | None:
    """Extract a commit, and return the folder with the packages that its project lacks here."""
    if not tree.exists():
        _extract(commit, tree, parts)
    metadata = tomllib.loads((tree / project / "pyproject.toml").read_text())["project"]
    missing = [text for text in metadata["dependencies"] if not _is_installed(text)]
    return _installed(tree, missing) if missing else None


def _extract(commit: str, tree: Path, parts: tuple[str, ...]) -> None:
    git = shutil.which("git")
    hint = f"the commit {commit} is not in this checkout: git fetch origin {commit}"
    if git is None:
        raise NotAvailable(f"{hint} (git is not installed)")
    # `git archive` needs no work tree and writes nothing into the repository.
    done = subprocess.run(
        [git, "archive", "--format=tar", commit, *parts], cwd=ROOT, capture_output=True
    )
    if done.returncode:
        raise NotAvailable(hint)
    _CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="data")
        _publish(Path(folder), tree)


def _installed(tree: Path, requirements: list[str]) -> Path:
    """Return a folder with these packages; pip fills it at the first call."""
    packages = tree.with_name(f"{tree.name}.packages")
    if not packages.exists():
        with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder]
            subprocess.run([*pip, *requirements], check=True)
            _publish(Path(folder), packages)
    return packages


def _publish(folder: Path, target: Path) -> None:
    """Move what ``folder`` has to ``target`` at once: another test process may look for it."""
    made = folder / "made"
    made.mkdir()
    for item in folder.iterdir():
        if item != made:
            item.rename(made / item.name)
    try:
        made.rename(target)
    except OSError:
        if not target.exists():  # otherwise another process was faster
            raise


def _is_installed(text: str) -> bool:
    requirement = Requirement(text)
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False
