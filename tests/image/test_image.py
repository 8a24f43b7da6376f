"""The image without Docker: the Dockerfile's form, its steps carried out, the lock it installs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import NormalizedName, canonicalize_name

from ojs_cluster.server.embedded.servers import Embedded
from tests.image.dockerfile import GROUPS, USER, Built, build, read_stages, words
from tests.image.shipped import assert_shipped
from tests.server.programs import free_port
from tests.support.certificates import Certificates
from tests.support.servers import wait_until

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
BIN = Path(sys.executable).parent

_PIN = re.compile(r"([\w.-]+)==(\S+)(?: ; .+)? \\\n")


def pins(lock: Path) -> list[tuple[NormalizedName, str, str]]:
    """Name, version and the whole entry of everything that a lock pins."""
    blocks = re.split(r"\n(?=[^\s#])", lock.read_text())
    matches = [(_PIN.match(block), block) for block in blocks]
    assert all(match or block.startswith("#") for match, block in matches)
    return [(canonicalize_name(match[1]), match[2], block) for match, block in matches if match]


def test_the_linter_finds_nothing() -> None:
    done = subprocess.run(
        [BIN / "hadolint", "--no-color", ROOT / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_shipped_is_not_what_built_it_and_does_not_run_as_root() -> None:
    *_, shipped = stages = read_stages(DOCKERFILE)

    assert len(stages) == 2
    assert all(re.fullmatch(r"python:3\.\d+-slim-\w+", stage.base) for stage in stages)
    assert not shipped.all("RUN"), "the last stage only copies"
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", shipped.last("USER")), "Kubernetes needs a number"
    labels = " ".join(shipped.all("LABEL"))
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels
    assert shipped.all("HEALTHCHECK")
    assert "apt" not in DOCKERFILE


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_locks_pin_every_file_by_hash_and_name_no_place(lock: Path) -> None:
    text = lock.read_text()

    assert pins(lock)
    assert all("--hash=sha256:" in entry for _, _, entry in pins(lock))
    assert "://" not in text
    assert not re.search(r"(^| )(-i|-f|--(extra-)?index-url|--find-links)\b", text, re.MULTILINE)


def asked_for(lock: str) -> dict[NormalizedName, Requirement]:
    """What a pyproject.toml asks for that belongs into a lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if lock == "build.lock":
        texts = project["build-system"]["requires"]
    else:
        extras = project["project"]["optional-dependencies"]
        client = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())
        texts = [
            *project["project"]["dependencies"],
            *extras["otel"],
            *extras["oidc"],
            *client["project"]["dependencies"],
            *client["project"]["optional-dependencies"]["ctl"],
        ]
    return {canonicalize_name(each.name): each for each in map(Requirement, texts)}


@pytest.mark.parametrize("lock", ["runtime.lock", "build.lock"])
def test_locks_hold_what_pyproject_asks_for(lock: str) -> None:
    wanted = asked_for(lock)
    pinned = pins(ROOT / "requirements" / lock)
    direct = {
        name
        for name, _, entry in pinned
        if "pyproject.toml)" in entry or "# via" not in entry  # the latter: read from a pipe
    }

    assert direct == wanted.keys(), "run `make lock`"
    for name, version, _ in pinned:
        if name in wanted:
            assert wanted[name].specifier.contains(version), f"{name} {version}: run `make lock`"


@pytest.mark.parametrize("folder", [".", "clients/python"])
def test_the_lock_of_a_checkout_holds_what_its_projects_ask_for(folder: str) -> None:
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    asked = {
        (str(canonicalize_name(each.name)), str(each.specifier)) for each in map(Requirement, texts)
    }
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    [locked] = [each for each in packages if each["source"] == {"editable": folder}]
    found = {
        (each["name"], str(SpecifierSet(each.get("specifier", ""))))
        for each in locked["metadata"]["requires-dist"]
    }
    ours = {"ojs-cluster", "ojs-client"}  # the lock has their folders, and no version

    def foreign(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
        return {pair for pair in pairs if pair[0] not in ours}

    assert foreign(found) == foreign(asked), "run `make lock`"
    assert {each["name"] for each in packages} >= ours


@pytest.fixture(scope="module")
def built() -> Iterator[Built]:
    """What the Dockerfile makes, in a folder that user 65534 owns and that is read-only."""
    # Not below pytest's folder: only its owner may enter that.
    root = Path(tempfile.mkdtemp(prefix="ojs-image-"))
    try:
        inherited = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_"))}
        made = build(ROOT, root, {**inherited, "HOME": "/nowhere"})
        for folder, _, names in os.walk(root):
            for entry in (folder, *(os.path.join(folder, name) for name in names)):
                if not os.path.islink(entry):
                    if USER is not None:
                        os.chown(entry, 0, 0)
                    os.chmod(entry, os.stat(entry).st_mode & 0o555)
        yield made
    finally:
        for folder, _, _ in os.walk(root):
            os.chmod(folder, 0o755)  # noqa: S103 - it is about to be deleted
        shutil.rmtree(root)


@pytest.fixture
def pair(certificates: Certificates) -> Iterator[dict[str, str]]:
    """A certificate and its key, where everybody may read them."""
    folder = Path(tempfile.mkdtemp(prefix="ojs-image-tls-"))
    folder.chmod(0o755)
    env = {}
    for name, file in certificates.env.items():
        copy = folder / Path(file).name
        shutil.copyfile(file, copy)
        copy.chmod(0o644)
        env[name] = str(copy)
    yield env
    shutil.rmtree(folder)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_the_steps_give_a_server_that_runs_where_nothing_can_be_written(
    built: Built, standalone: Embedded, tmp_path: Path, pair: dict[str, str], tls: bool
) -> None:
    shipped = read_stages(DOCKERFILE)[-1]
    command = [*words(shipped.last("ENTRYPOINT")), *words(shipped.last("CMD"))]
    health = words(shipped.last("HEALTHCHECK").partition("CMD ")[2])
    program, probe = built.root / "opt/ojs/bin" / command[0], built.root / "opt/ojs/bin" / health[0]
    env = {
        **built.env,
        "HOME": "/nowhere",
        "OJS_PORT": str(free_port()),
        "OJS_HOST": "127.0.0.1",
        "OJS_WORKERS": "1",
        "OJS_API_KEY": "a-key-of-this-test",
        "REDIS_URL": standalone.url,
        **(pair if tls else {}),
    }
    log = tmp_path / "log"

    def healthy() -> bool:
        asked = subprocess.run(
            [probe, *health[1:]],
            env=env,
            capture_output=True,
            check=False,
            user=USER,
            group=USER,
            extra_groups=GROUPS,
        )
        return asked.returncode == 0

    def started() -> bool:
        assert server.poll() is None, log.read_text()
        return healthy()

    assert str(probe.parent) == env["PATH"].split(":")[0]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [program, *command[1:]],
            cwd="/",
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            user=USER,
            group=USER,
            extra_groups=GROUPS,
        )
    try:
        wait_until(started, timeout_s=120, what="the image's health check")
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0, log.read_text()
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
    assert not healthy()


def test_the_steps_ship_what_runs_and_no_more(built: Built) -> None:
    assert_shipped(built.root)
    ojsctl = built.root / "opt/ojs/bin/ojsctl"
    subprocess.run([ojsctl, "doctor", "--help"], env=built.env, check=True, stdout=subprocess.PIPE)
