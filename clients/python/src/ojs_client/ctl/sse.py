"""Read server-sent events, and continue after a broken connection (spec: ojs-realtime 2)."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from ojs_client.ctl.api import Api
from ojs_client.ctl.errors import pause_after
from ojs_client.ctl.output import note
from ojs_client.errors import ConnectionFailed, Unavailable

_IDLE_S: Final = 60.0
"""The server sends a comment every 10 s, so a stream that is silent for longer is broken."""
_PAUSES_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Pauses before the attempts to connect again."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a stream: its name, and its data as JSON."""

    name: str
    data: Any


def follow(api: Api, path: str, **params: str | None) -> Iterator[Event]:
    """Yield the events of a stream until the server ends it.

    After a broken connection the stream continues after the last event.

    Args:
        api: the client.
        path: the path of the stream.
        **params: the query, without the members that are None or empty.

    Raises:
        ApiError: the server refused the stream.
        ConnectionFailed: the server cannot be reached, even after several attempts.
    """
    position = _Position()
    failures = 0  # since the last event
    while True:
        shutdown = False
        try:
            with api.stream(path, params, position.last_id, _IDLE_S) as lines:
                for event in _events(lines, position):
                    failures = 0
                    if event.name == "server.shutdown":
                        shutdown = True
                    else:
                        yield event
        except (ConnectionFailed, Unavailable) as error:
            # If the stream never began, the address is probably wrong: retries would hide that.
            if failures >= len(_PAUSES_S) or not position.began:
                raise
            note(f"{error}: reconnecting")
            pause_s = max(_PAUSES_S[failures], pause_after(error) or 0.0)
            failures += 1
        else:
            if not shutdown:
                return
            pause_s = _PAUSES_S[0]
        # Clients of one node must not return together.
        time.sleep(pause_s * random.uniform(1.0, 1.5))  # noqa: S311 - no secret


@dataclass(slots=True)
class _Position:
    """Where a stream is: the id of its last event, and whether any line has arrived."""

    last_id: str = ""
    began: bool = False


def _events(lines: Iterable[str], position: _Position) -> Iterator[Event]:
    name = ""
    data: list[str] = []
    event_id: str | None = None
    for line in lines:
        position.began = True
        if not line:
            if event_id is not None:
                position.last_id = event_id
            if data:
                yield Event(name or "message", _parsed("\n".join(data)))
            name, data, event_id = "", [], None
            continue
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "event":
            name = value
        elif key == "data":
            data.append(value)
        elif key == "id":
            event_id = value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
