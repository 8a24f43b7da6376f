"""Build the sdists and wheels of both Python packages reproducibly, check them, and try them.

    python -m tests.distributions.build FOLDER

A wheel is built from its sdist, so the sdist is complete. The backend has the version that
requirements/build.lock pins. Times are ``SOURCE_DATE_EPOCH``, or the time of the last commit.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.distributions import pages, trial
from tests.helm.package import ROOT, epoch, repacked

_HOOK: Final = (
    "import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"
)


@dataclass(frozen=True, slots=True)
class Project:
    """A package of this repository.

    Args:
        name: its name on the index.
        folder: its folder in the repository.
        version_file: the file with its version, below the folder.
        parts: what its build reads, below the folder.
    """

    name: str
    folder: Path
    version_file: str
    parts: tuple[str, ...]

    @property
    def version(self) -> str:
        """Its version."""
        text = (ROOT / self.folder / self.version_file).read_text()
        (version,) = re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)
        return str(version)


_FILES: Final = ("pyproject.toml", "README.md", "LICENSE")
PROJECTS: Final = (
    Project("ojs-client", Path("clients/python"), "src/ojs_client/_version.py", (*_FILES, "src")),
    Project(
        "ojs-cluster", Path(), "ojs_cluster/__init__.py", (*_FILES, "ojs_cluster", "scheduler")
    ),
)


def build(folder: Path, at: int, url: str | None) -> list[Path]:
    """Write an sdist and a wheel of each package; return their paths.

    Args:
        folder: where to write them.
        at: the time that all files get.
        url: the address of the repository; None for pages without links.
    """
    made = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        backend = _backend(scratch / "backend")
        for project in PROJECTS:
            _copy(project, scratch / project.name, url)
            sdist = _built("build_sdist", scratch / project.name, scratch / "sdist", backend, at)
            sdist = repacked(sdist, folder, at)
            with tarfile.open(sdist) as packed:
                packed.extractall(scratch / "unpacked", filter="data")
            source = scratch / "unpacked" / sdist.name.removesuffix(".tar.gz")
            wheel = _built("build_wheel", source, scratch / "wheel", backend, at)
            made += [sdist, Path(shutil.copy(wheel, folder))]
    return made


def _backend(folder: Path) -> Path:
    """Install the pinned backend into a folder."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    lock = ["--require-hashes", "--requirement", str(ROOT / "requirements" / "build.lock")]
    subprocess.run([*pip, "--target", str(folder), *lock], check=True)
    return folder


def _copy(project: Project, target: Path, url: str | None) -> None:
    """Copy what git knows or would add. An earlier build may have left other files."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]
    listed = subprocess.run(
        [*command, *project.parts], cwd=ROOT / project.folder, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        source = ROOT / project.folder / name
        if name and source.is_file():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read_bytes())
            path.chmod(0o644)
    readme, metadata = target / "README.md", target / "pyproject.toml"
    readme.write_text(pages.readme(readme.read_text(), project.folder, url, project.version))
    metadata.write_text(metadata.read_text() + pages.urls(url, project.version))


def _built(hook: str, source: Path, folder: Path, backend: Path, at: int) -> Path:
    """Call a hook of the backend in a folder with sources; return what it has made."""
    before = set(folder.iterdir()) if folder.exists() else set()
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", _HOOK, hook, str(folder)],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(backend), "SOURCE_DATE_EPOCH": str(at)},
        umask=0o022,  # the backend copies files, and a wheel has their modes
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{hook} in {source}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    (made,) = set(folder.iterdir()) - before
    return made


def check(files: list[Path]) -> None:
    """Check that the index accepts the metadata and shows the README."""
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], check=True)


def main(arguments: list[str]) -> None:
    """Write the packages, check and try them, and print their names."""
    (name,) = arguments
    folder = Path(name)
    folder.mkdir(parents=True, exist_ok=True)
    url = pages.repository(ROOT)
    made = build(folder, epoch(), url)
    check(made)
    with tempfile.TemporaryDirectory() as scratch:
        trial.first_job([path for path in made if path.suffix == ".whl"], Path(scratch))
    print(*made, sep="\n")
    if url is None:
        print("no URLs: the remote `origin` is no address of a repository")


if __name__ == "__main__":
    main(sys.argv[1:])
