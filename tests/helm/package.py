"""Build the artefacts of a release reproducibly: the same commit gives the same bytes.

    python -m tests.helm.package FOLDER chart
    python -m tests.helm.package FOLDER image

The first writes the package of the chart into FOLDER, the second with ``docker buildx`` the image
as an OCI archive. Their times are ``SOURCE_DATE_EPOCH``, or the time of the last commit.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.helm import tools
from tests.helm.chart import CHART, Chart

ROOT = CHART.parent.parent
PLATFORMS = "linux/amd64,linux/arm64"


def epoch() -> int:
    """Return the time of the artefacts, in seconds since 1970."""
    if named := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(named)
    return int(_output("git", "log", "-1", "--format=%ct"))


def chart(folder: Path, at: int) -> Path:
    """Write the chart's package.

    Args:
        folder: where to write it.
        at: the time that all files get.
    """
    with tempfile.TemporaryDirectory() as scratch:
        Chart(tools.helm()).run("package", str(CHART), "--destination", scratch)
        (made,) = Path(scratch).iterdir()
        return repacked(made, folder, at)


def repacked(made: Path, folder: Path, at: int) -> Path:
    """Pack the files of an archive again, because it has the times and owners of this checkout.

    Args:
        made: the archive.
        folder: where to write the new one, under the same name.
        at: the time that all files get.
    """
    wanted = folder / made.name
    with (
        tarfile.open(made) as source,
        wanted.open("wb") as file,
        # The header has no name and no time.
        gzip.GzipFile("", "wb", 9, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as target,
    ):
        for member in sorted(source.getmembers(), key=lambda each: each.name):
            if member.isdir():
                continue
            content = source.extractfile(member)
            assert content is not None, f"{member.name} is no file"
            data = content.read()
            entry = tarfile.TarInfo(member.name)
            entry.size, entry.mtime, entry.mode = len(data), at, 0o644
            target.addfile(entry, io.BytesIO(data))
    return wanted


def image(folder: Path, at: int) -> Path | None:
    """Write the image for all platforms as an OCI archive; return None where Docker cannot build
    it.
    """
    if shutil.which("docker") is None or _fails("docker", "buildx", "version"):
        return None
    version = chart_version()
    wanted = folder / f"ojs-cluster-image-{version}.tar"
    command = ["docker", "buildx", "build", "--platform", PLATFORMS, str(ROOT)]
    command += ["--build-arg", f"SOURCE_DATE_EPOCH={at}", "--build-arg", f"VERSION={version}"]
    command += ["--build-arg", f"REVISION={_output('git', 'rev-parse', 'HEAD')}"]
    # Provenance holds the time of the build; the workflow that publishes adds it.
    command += ["--provenance=false", "--sbom=false"]
    command += ["--output", f"type=oci,dest={wanted},rewrite-timestamp=true"]
    subprocess.run(command, check=True)
    return wanted


def chart_version() -> str:
    """Return the version of the server that the chart runs."""
    lines = (CHART / "Chart.yaml").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("appVersion:"))
    return line.partition(":")[2].strip().strip('"')


def _output(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _fails(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode != 0


def main(arguments: list[str]) -> None:
    """Write an artefact and print its name."""
    name, artefact = arguments
    folder = Path(name)
    folder.mkdir(parents=True, exist_ok=True)
    made = {"chart": chart, "image": image}[artefact](folder, epoch())
    print(made or "no image: `docker buildx` is not here")


if __name__ == "__main__":
    main(sys.argv[1:])
