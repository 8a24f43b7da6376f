"""``ojsctl top``."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import click
from rich.console import Console, Group
from rich.live import Live

from ojs_client.ctl.api import ADMIN
from ojs_client.ctl.errors import Exit
from ojs_client.ctl.frame import KEYS, SORTS, Picture, frame, keys_line
from ojs_client.ctl.output import terminal_width
from ojs_client.ctl.session import Leaf, Session
from ojs_client.ctl.times import DURATION
from ojs_client.errors import ApiError, ConnectionFailed

_MAX_QUEUES: Final = 1000
"""Maximum number of queues in a picture, so that it takes about ten requests."""
_LEAST_INTERVAL_S: Final = 0.2
_WIDEST: Final = 160
"""Maximum width in a pipe."""


class Sampler:
    """Reads the state of a server repeatedly, and computes rates between two readings."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._completed: dict[str, int] = {}
        self._at = 0.0

    def take(self) -> Picture:
        """Return the present state of the server.

        Raises:
            ApiError: the server refused.
            ConnectionFailed: the server did not answer.
        """
        api = self._session.api
        stats = api.get(f"{ADMIN}/stats")
        workers = self._workers()
        queues = list(api.pages(f"{ADMIN}/queues", "items", _MAX_QUEUES))
        now = time.monotonic()
        passed_s = now - self._at
        completed = {queue["name"]: queue["counts"].get("completed", 0) for queue in queues}
        for queue in queues:
            before = self._completed.get(queue["name"])
            grown = 0 if before is None else completed[queue["name"]] - before
            queue["now_per_s"] = max(0, grown) / passed_s
        self._completed, self._at = completed, now
        return Picture(api.url, stats, workers, queues)

    def _workers(self) -> dict[str, int]:
        """Return the number of workers by state; none if the key may access some queues only."""
        try:
            summary: dict[str, int] = self._session.api.get(f"{ADMIN}/workers", limit=1)["summary"]
        except ApiError as error:
            if error.status != 403:
                raise
            return {}
        return summary


@click.command(
    cls=Leaf,
    formats=(),
    examples="""
    top
    top --interval 5s --sort dead
    top --once
    """,
)
@click.option("--interval", type=DURATION, default=2.0, help="Pause between two updates (2s).")
@click.option("--sort", type=click.Choice(tuple(SORTS)), default="available", show_default=True)
@click.option("--once", is_flag=True, help="Print the state once and exit, as in a pipe.")
@click.pass_obj
def top(session: Session, interval: float, sort: str, once: bool) -> None:
    """Show the queues as htop shows processes.

    Meters show the unfinished jobs by state. NOW/S is the number of jobs completed per second since
    the last update. Keys sort the table, the space bar pauses the display, and q quits.
    """
    sampler = Sampler(session)
    if once or not sys.stdout.isatty():
        width = min(terminal_width(), _WIDEST)
        for line in frame(sampler.take(), width=width, height=None, sort=sort, clock=_clock()):
            line.rstrip()
            session.output.print(line)
        return
    picture = sampler.take()  # a first failure ends the command
    screen = _Screen(sort)
    console = Console(highlight=False)
    try:
        with (
            Live(console=console, screen=True, auto_refresh=False) as live,
            _keyboard() as pressed,
        ):
            while not screen.ended:
                screen.draw(live, picture)
                if screen.wait(live, picture, pressed, max(interval, _LEAST_INTERVAL_S)):
                    picture = _next(sampler, picture)
    except KeyboardInterrupt:
        session.exit_code = Exit.OK


def _next(sampler: Sampler, before: Picture) -> Picture:
    try:
        return sampler.take()
    except ConnectionFailed as error:
        return replace(before, error=str(error))


def _clock() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S")


class _Screen:
    """The display, and what the user has chosen by keys.

    Args:
        sort: the column that sorts the queues.
    """

    def __init__(self, sort: str) -> None:
        self.sort = sort
        self.paused = False
        self.ended = False

    def draw(self, live: Live, picture: Picture) -> None:
        """Draw a picture at the present size of the terminal."""
        width, height = shutil.get_terminal_size()
        lines = frame(picture, width=width, height=height, sort=self.sort, clock=_clock())
        blank = [""] * max(0, height - len(lines) - 1)
        live.update(Group(*lines, *blank, keys_line(width, self.sort, self.paused)), refresh=True)

    def wait(
        self,
        live: Live,
        picture: Picture,
        pressed: Callable[[float], str],
        interval_s: float,
    ) -> bool:
        """Wait until the next update is due, and handle keys meanwhile.

        Returns:
            Whether to read the state again.
        """
        end = time.monotonic() + interval_s
        while not self.ended:
            left_s = end - time.monotonic()
            if left_s <= 0 and not self.paused:
                return True
            key = pressed(max(0.0, left_s) if not self.paused else interval_s)
            if key == "q":
                self.ended = True
            elif key == " ":
                self.paused = not self.paused
            elif key in KEYS:
                self.sort = KEYS[key]
            if key and not self.ended:
                self.draw(live, picture)
        return False


@contextmanager
def _keyboard() -> Iterator[Callable[[float], str]]:
    """Read single keys while the block runs.

    Yields:
        A function that waits for a key for some seconds and returns it; empty without one.
    """
    try:
        import termios
        import tty
    except ModuleNotFoundError:  # Windows
        yield _no_key
        return
    if not sys.stdin.isatty():
        yield _no_key
        return
    handle = sys.stdin.fileno()
    before: Any = termios.tcgetattr(handle)
    try:
        tty.setcbreak(handle, termios.TCSADRAIN)  # keeps what was typed already
        yield _pressed
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)


def _no_key(wait_s: float) -> str:
    time.sleep(wait_s)
    return ""


def _pressed(wait_s: float) -> str:
    import os
    import select

    handle = sys.stdin.fileno()
    ready, _, _ = select.select([handle], [], [], wait_s)
    if not ready:
        return ""
    # An empty read means that the terminal is closed.
    return os.read(handle, 1).decode(errors="replace").lower() or "q"
