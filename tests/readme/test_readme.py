"""README and guide are true: their ``bash`` blocks run in a fresh copy, as a newcomer runs them.

Blocks of other kinds do not run, as they need another machine, an editor or a published package.
The programs that the reader saves are there for the blocks that start them. Two that no block
starts run too (``STARTED_HERE``). The other programs are checked for their names alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.readme import api_reference
from tests.readme.configuration import PAGE, page
from tests.server.programs import free_port

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]
TEXT = "\n".join(path.read_text() for path in PAGES)
BLOCKS = re.findall(r"^```bash\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
PROGRAMS = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
"""Names and texts of the programs that a page tells the reader to save."""
STARTED_HERE = ("timing.py", "enqueue.py")
"""Programs that no block starts, and that the test runs."""

START = "make run\n"
TEST = "make test\n"
INSTALL = next(block for block in BLOCKS if "pip install" in block)
USE = [block for block in BLOCKS if block not in (START, TEST, INSTALL)]

# A curl that fails loudly: the newcomer reads the answer, the test reads the exit code.
SHELL = (
    'set -euo pipefail\ncurl() { command curl --fail-with-body -sS "$@"; }\n'
    "export OJS_URL=http://localhost:8080 OJS_PROFILES=$PWD/profiles.json\n"
)
"""Begins every block. ``ojsctl`` asks the server of the test; its profiles are in the copy."""


def test_the_page_of_variables_is_current() -> None:
    assert PAGE.read_text() == page(), "run: make docs"


def test_the_page_of_the_api_is_current() -> None:
    assert api_reference.PAGE.read_text() == api_reference.page(), "run: make docs"


def test_the_readme_is_short() -> None:
    assert len(PAGES[0].read_text().splitlines()) <= 200


def test_the_first_worker_is_short_and_on_the_first_screen() -> None:
    text = dict(PROGRAMS)["worker.py"]
    assert len(text.splitlines()) <= 15
    assert text == (ROOT / "examples" / "worker.py").read_text()
    before, _, after = PAGES[0].read_text().partition("# worker.py\n")
    assert "make run" in after[: len(text) + 200]
    assert len(before.splitlines()) < 10


def test_every_program_has_a_name_of_its_own() -> None:
    assert len(dict(PROGRAMS)) == len(PROGRAMS) == TEXT.count("```python\n")


def test_no_program_names_a_port() -> None:
    assert [name for name, text in PROGRAMS if "8080" in text] == []


def test_the_blocks_that_are_no_requests_are_known() -> None:
    assert START in BLOCKS
    assert TEST in BLOCKS
    assert all("curl" in block or "ojsctl" in block for block in USE)


@pytest.fixture(scope="module")
def fresh_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone would hold: the files git knows or would add, nothing that was built here."""
    copy = tmp_path_factory.mktemp("clone") / "ojs-cluster"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        source = ROOT / name
        if source.is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy / name)
    return copy


def test_a_newcomer_gets_from_make_run_through_every_example(fresh_copy: Path) -> None:
    port = free_port()
    download(lambda: run_target(fresh_copy, ".venv/.run"))
    for name, text in PROGRAMS:
        (fresh_copy / name).write_text(text)
    with run_make(fresh_copy, port):
        for name in STARTED_HERE:
            shell(f".venv/bin/python -W error {name}", fresh_copy, port)
        for block in USE:
            shell(block, fresh_copy, port)
        kept = get(port, "/ojs/v1/jobs?limit=50")["jobs"]
        assert kept, "the examples leave jobs behind"

    with run_make(fresh_copy, port):
        again = get(port, "/ojs/v1/jobs?limit=50")["jobs"]
        assert {job["id"] for job in kept} <= {job["id"] for job in again}

    dry = subprocess.run(
        ["make", "--dry-run", "test"],  # noqa: S607
        cwd=fresh_copy,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "pytest" in dry.stdout
    download(lambda: shell(INSTALL, fresh_copy, constraints=fresh_copy.parent / "constraints"))


def download(step: Callable[[], object]) -> None:
    """Do what downloads packages, three times at most: an index may be away for some seconds.

    A step fails by an AssertionError, whatever the reason, or by its timeout.
    """
    for tries_left in (2, 1, 0):
        try:
            step()
        except (AssertionError, subprocess.TimeoutExpired):
            if not tries_left:
                raise
        else:
            return


def run_target(copy: Path, target: str) -> None:
    """`make` one of the targets that `make run` begins with."""
    done = subprocess.run(
        ["make", target],  # noqa: S607
        cwd=copy,
        env=_environment(copy),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@contextmanager
def run_make(copy: Path, port: int) -> Iterator[None]:
    """`make run` until it serves; Ctrl-C at the end, which must end it cleanly."""
    log = copy.parent / "make-run.log"
    environment = _environment(copy) | {"OJS_PORT": str(port)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["make", "run"],  # noqa: S607
            cwd=copy,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 900
            # The banner comes when every process serves; `ready` asks one of them.
            while "Ctrl-C stops everything" not in log.read_text() or not ready(port):
                assert process.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < deadline, log.read_text()[-4000:]
                time.sleep(0.1)
            yield
            # A terminal sends Ctrl-C to the whole group.
            os.killpg(process.pid, signal.SIGINT)
            process.wait(120)
            assert not ready(port)
            assert "Traceback" not in log.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def shell(block: str, copy: Path, port: int = 8080, *, constraints: Path | None = None) -> str:
    """Run a block in the copy, for the server on this port; returns what it printed.

    With the file `constraints`, pip takes the package of the copy for the one of the index.
    """
    more = {}
    if constraints is not None:
        constraints.write_text(f"ojs-cluster @ {copy.as_uri()}\n")
        more = {"PIP_CONSTRAINT": str(constraints)}
    done = subprocess.run(
        ["bash", "-c", (SHELL + block).replace(":8080", f":{port}")],  # noqa: S607
        cwd=copy,
        env=_environment(copy) | more,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _environment(copy: Path) -> dict[str, str]:
    """This environment without what would make the copy use this checkout or its servers."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OJS_", "REDIS_", "VIRTUAL_ENV", "PYTEST_", "MAKE", "MFLAGS"))
    }
    kept["PATH"] = f"{copy / '.venv' / 'bin'}:{kept['PATH']}"
    return kept


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=10) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return json.load(answer)
