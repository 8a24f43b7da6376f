"""Take the screenshots of the documentation: ``python -m tests.ui.screenshots docs/img``.

The pages show the demo data of the tests, so that anyone can take the same pictures again.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, sync_playwright

from tests.support.servers import own_server
from tests.ui.conftest import FULL, write_history
from tests.ui.dashboard import Running, dashboard
from tests.ui.demo import Demo

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Containers have a small /dev/shm, and no user namespaces for the sandbox.
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]
MAX_BYTES = 150_000
PICTURES = {"overview": "", "job": "jobs/{discarded}"}
"""The pages by the names of their pictures."""
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def take(browser: Browser, running: Running, demo: Demo, folder: Path) -> list[Path]:
    """Write all pictures into ``folder``; return their paths."""
    taken = []
    for scheme in SCHEMES:
        context = browser.new_context(
            viewport={"width": 1240, "height": 860}, color_scheme=scheme, reduced_motion="reduce"
        )
        context.set_extra_http_headers({"Authorization": "Bearer admin-key"})
        page = context.new_page()
        for name, path in PICTURES.items():
            page.goto(f"{running.url}/ui/{path.format(**demo.jobs)}")
            page.locator("html.js").wait_for()
            page.evaluate("document.fonts.ready")
            taken.append(folder / f"{name}-{scheme}.png")
            page.screenshot(path=taken[-1])
        context.close()
    return taken


def main(folder: Path) -> int:
    """Start a server with demo data, and take all pictures."""
    if CHROMIUM is None:
        print("screenshots need chromium: sudo apt install chromium", file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory() as data,
        own_server(Path(data), cluster=False) as redis,
        dashboard(redis, FULL) as running,
        sync_playwright() as playwright,
    ):
        with running.api() as client:
            demo = Demo(client).fill()
        running.run(lambda: write_history(running))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for path in take(browser, running, demo, folder):
            print(f"{path}: {path.stat().st_size // 1000} kB")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
