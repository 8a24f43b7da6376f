"""The images, built once, and the bundled cluster's chart running of them."""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ojs_cluster.server.embedded.servers import ServerBinary
from tests.containers import base
from tests.containers.image import Builder, Image
from tests.containers.release import Release
from tests.helm.chart import Chart
from tests.helm.conftest import chart
from tests.helm.valkey_pods import CLI

__all__ = ["chart", "folder", "image", "python_base", "release", "valkey"]

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Give a folder that every user may enter: only its owner may enter pytest's."""
    made = Path(tempfile.mkdtemp(prefix="ojs-containers-"))
    # Half a gigabyte that a disk would take longer to write and to delete than the tests last.
    mount = ["mount", "-t", "tmpfs", "-o", "size=2g,mode=755", "ojs-containers", str(made)]
    subprocess.run(mount, check=True)
    try:
        yield made
    finally:
        subprocess.run(["umount", "--lazy", str(made)], check=True)  # noqa: S607
        made.rmdir()


@pytest.fixture(scope="session")
def python_base(folder: Path) -> Path:
    """Give the stand-in for Python's image."""
    made = folder / "python"
    made.mkdir()
    base.make_python(made)
    return made


@pytest.fixture(scope="session")
def image(folder: Path, python_base: Path) -> Image:
    """Build the Dockerfile."""
    (folder / "stages").mkdir()
    asked = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_"))}
    return Builder(ROOT, python_base, folder / "stages", asked).build()


@pytest.fixture(scope="session")
def valkey(folder: Path, server_binary: ServerBinary) -> Image:
    """Give the stand-in for Valkey's image."""
    (folder / "valkey").mkdir()
    base.make_valkey(folder / "valkey", Path(server_binary.path), Path(str(CLI)))
    return Image(folder / "valkey")


@pytest.fixture(scope="module", params=["the chart's users", "users of OpenShift"])
def release(
    request: pytest.FixtureRequest,
    chart: Chart,
    image: Image,
    valkey: Image,
    folder: Path,
) -> Iterator[Release]:
    """Run the bundled cluster with an API and a scheduler; all of them are ready."""
    range_start = None
    if request.param == "users of OpenShift":
        range_start = random.randrange(100_000, 150_000) * 10_000
    images = {"ojs-cluster": image, "valkey/valkey": valkey}
    with Release.running(chart, images, folder / f"release-{range_start}", range_start) as started:
        yield started
