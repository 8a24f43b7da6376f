"""``ojsctl top``."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Final

import click
from rich.console import Console, Group
from rich.live import Live

from ojs_client.ctl.api import ADMIN, Api
from ojs_client.ctl.command import LEAST_INTERVAL_S, Leaf
from ojs_client.ctl.errors import pause_after
from ojs_client.ctl.frame import KEYS, SORTS, Picture, frame, keys_line
from ojs_client.ctl.keyboard import keyboard
from ojs_client.ctl.output import terminal_width
from ojs_client.ctl.session import Session
from ojs_client.ctl.times import DURATION
from ojs_client.errors import ApiError, OJSError

_MAX_QUEUES: Final = 1000
"""Maximum number of queues in a picture, so that it takes about ten requests."""
_WIDEST: Final = 160
"""Maximum width in a pipe."""


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
    sampler = Sampler(session.api)
    picture = sampler.read()
    if once or not sys.stdout.isatty():
        width = min(terminal_width(), _WIDEST)
        for line in frame(picture, width=width, height=None, sort=sort, clock=_clock()):
            line.rstrip()  # changes the line
            session.output.print(line)
        return
    display = _Display(sampler, picture, sort, max(interval, LEAST_INTERVAL_S))
    live = Live(console=Console(highlight=False), screen=True, auto_refresh=False)
    with suppress(KeyboardInterrupt), live, keyboard() as read_keys:
        display.run(live, read_keys)


class Sampler:
    """Reads the state of a server repeatedly, and computes rates between two readings."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._completed: dict[str, int] = {}
        self._at = 0.0

    def read(self) -> Picture:
        """Return the present state of the server.

        Raises:
            ApiError: the server refused.
            ConnectionFailed: the server did not answer.
        """
        stats = self._api.get(f"{ADMIN}/stats")
        workers = self._workers()
        queues = list(self._api.pages(f"{ADMIN}/queues", "items", _MAX_QUEUES))
        now = time.monotonic()
        passed_s = now - self._at
        completed = {queue["name"]: queue["counts"].get("completed", 0) for queue in queues}
        for queue in queues:
            name = queue["name"]
            grown = completed[name] - self._completed.get(name, completed[name])
            queue["now_per_s"] = max(0, grown) / passed_s
        self._completed, self._at = completed, now
        return Picture(self._api.url, stats, workers, queues)

    def _workers(self) -> dict[str, int]:
        """Return the number of workers by state; none if the key may access some queues only."""
        try:
            summary: dict[str, int] = self._api.get(f"{ADMIN}/workers", limit=1)["summary"]
        except ApiError as error:
            if error.status != 403:
                raise
            return {}
        return summary


class _Display:
    """Shows pictures on a terminal, and obeys keys.

    Args:
        sampler: reads the pictures.
        picture: the first picture.
        sort: the column that sorts the queues.
        interval_s: least time between two pictures, in seconds.
    """

    def __init__(self, sampler: Sampler, picture: Picture, sort: str, interval_s: float) -> None:
        self._sampler = sampler
        self._picture = picture
        self._sort = sort
        self._interval_s = interval_s
        self._is_paused = False
        self._has_ended = False

    def run(self, live: Live, read_keys: Callable[[float], str]) -> None:
        """Show pictures until the user quits.

        Args:
            live: draws on the terminal.
            read_keys: waits for keys, as ``keyboard`` yields it.
        """
        pause_s = self._interval_s
        while True:
            self._draw(live)
            self._obey_keys(live, read_keys, pause_s)
            if self._has_ended:
                return
            pause_s = self._update()

    def _draw(self, live: Live) -> None:
        """Draw the picture at the present size of the terminal."""
        width, height = shutil.get_terminal_size()
        lines = frame(self._picture, width=width, height=height, sort=self._sort, clock=_clock())
        blank = [""] * max(0, height - len(lines) - 1)
        keys = keys_line(width, self._sort, self._is_paused)
        live.update(Group(*lines, *blank, keys), refresh=True)

    def _obey_keys(self, live: Live, read_keys: Callable[[float], str], wait_s: float) -> None:
        """Obey keys until the user quits, or the time is over and the display is not paused."""
        end = time.monotonic() + wait_s
        while True:
            left_s = end - time.monotonic()
            if left_s <= 0 and not self._is_paused:
                return
            keys = read_keys(wait_s if self._is_paused else left_s)
            for key in keys:
                if key == "q":
                    self._has_ended = True
                    return
                if key == " ":
                    self._is_paused = not self._is_paused
                else:
                    self._sort = KEYS.get(key, self._sort)
            if keys:
                self._draw(live)

    def _update(self) -> float:
        """Read the next picture; return the time until the one after it, in seconds.

        While the server does not answer or is busy, the last picture stays, with the error.

        Raises:
            ApiError: the server refuses the requests for good.
        """
        try:
            self._picture = self._sampler.read()
        except OJSError as error:
            least_s = pause_after(error)
            if least_s is None:
                raise
            self._picture = replace(self._picture, error=str(error))
            return max(self._interval_s, least_s)
        return self._interval_s


def _clock() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S")
