"""The commands of the guide for operators, and a shell that runs them."""

from __future__ import annotations

import re
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any, Final

import httpx

DOCS: Final = Path(__file__).parent.parent.parent / "docs"
CLI: Final = shutil.which("valkey-cli") or shutil.which("redis-cli")
KEY: Final = "a-key-of-this-test"

# A curl that fails loudly: the operator reads the answer, the test reads the exit code.
_SHELL: Final = 'set -euo pipefail\ncurl() { command curl --fail-with-body -sS "$@"; }\n'


def blocks_of(page: str) -> list[str]:
    """Return the commands of a page of ``docs``, as an operator copies them."""
    text = (DOCS / page).read_text()
    found = re.findall(r"^( *)```bash\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for _, block in found]


def block_with(page: str, part: str) -> str:
    """Return the one block of a page that has a part."""
    (found,) = (block for block in blocks_of(page) if part in block)
    return found


def shell(block: str, folder: Path, env: dict[str, str]) -> str:
    """Run a block, which must succeed, and return what it prints."""
    done = subprocess.run(
        ["bash", "-c", _SHELL + block],  # noqa: S607
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def call(url: str, method: str, path: str, body: Any = None) -> Any:
    """Send a request, which must succeed, and return the body of its answer."""
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.request(method, f"{url}/ojs/v1{path}", json=body, headers=headers, timeout=60)
    assert answer.status_code < 300, answer.text
    return answer.json()
