"""Take the screenshots of the documentation: ``python -m tests.ui.screenshots docs/img``.

The pages show the demo data of the tests, so that anyone can take the same pictures again. With
``--all`` the folder gets a picture of each page in its whole height instead, to review the pages.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import httpx
from playwright.sync_api import Browser, sync_playwright

from tests.support.nodes import scheduler
from tests.support.servers import own_server, wait_until
from tests.ui.conftest import FULL, write_history
from tests.ui.dashboard import Running, dashboard
from tests.ui.demo import Demo
from tests.ui.every_page import every_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Containers have a small /dev/shm, and no user namespaces for the sandbox.
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]
MAX_BYTES = 150_000
PICTURES = {"overview": "", "job": "jobs/{discarded}"}
"""The pages by the names of their pictures."""
_SAFE_S = 20
"""Number of seconds from the begin of a minute in which there is time for all pictures."""
WIDTHS = {"": 1280, "-phone": 390}
"""The widths of the windows by the end of the names of their pictures."""
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


def take_all(browser: Browser, running: Running, demo: Demo, folder: Path) -> list[Path]:
    """Write a wide and a narrow picture of every page into ``folder``; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    for suffix, width in WIDTHS.items():
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme="light", reduced_motion="reduce"
        )
        page = context.new_page()
        taken.append(folder / f"login{suffix}.png")
        page.goto(f"{running.url}/ui/login")
        page.screenshot(path=taken[-1], full_page=True)
        context.set_extra_http_headers({"Authorization": "Bearer admin-key"})
        for name, path in every_page(demo).items():
            page.goto(f"{running.url}/ui/{path}")
            page.locator("html.js").wait_for()
            page.evaluate("document.fonts.ready")
            # The menu is as high as the window, so the window is made as high as the page.
            height = page.evaluate("document.documentElement.scrollHeight")
            page.set_viewport_size({"width": width, "height": max(800, height)})
            taken.append(folder / f"{name}{suffix}.png")
            page.screenshot(path=taken[-1])
            page.set_viewport_size({"width": width, "height": 800})
        context.close()
    return taken


@contextlib.contextmanager
def _scheduler(folder: Path, redis_url: str, running: Running) -> Iterator[None]:
    """Run a scheduler, so that the pages show a cluster at work."""
    shards = {"OJS_SHARDS": str(len(running.app.store.keys))}
    process = scheduler("scheduler", folder, redis_url, shards)
    process.start()
    try:
        yield
    finally:
        process.kill()


def _is_alive(client: httpx.Client, demo: Demo) -> bool:
    """Return whether the scheduler has counted the jobs of the bulk operation of the demo."""
    found = client.get(f"/ojs/v1/admin/bulk/{demo.operation}").json()
    return bool(found["state"] == "completed")


def main(folder: Path, *, every: bool) -> int:
    """Start a server with demo data, and take the pictures of the documentation or of all pages."""
    if CHROMIUM is None:
        print("screenshots need chromium: sudo apt install chromium", file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory() as data,
        own_server(Path(data), cluster=False) as redis,
        dashboard(redis, FULL) as running,
        _scheduler(Path(data), redis.url, running),
        sync_playwright() as playwright,
    ):
        with running.api() as client:
            demo = Demo(client).fill()
            wait_until(lambda: _is_alive(client, demo), what="the scheduler works")
        # The scheduler writes real statistics at the end of a minute, instead of those of the demo.
        wait_until(lambda: time.time() % 60 < _SAFE_S, what="a new minute")
        running.run(lambda: write_history(running))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for path in (take_all if every else take)(browser, running, demo, folder):
            print(f"{path}: {path.stat().st_size // 1000} kB")
        browser.close()
    return 0


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--all"]
    sys.exit(main(Path(arguments[0]), every="--all" in sys.argv))
