"""A child for the supervisor's tests: the real server loop around a tiny ASGI application.

`GET /pid` answers with the process's id, `GET /slow?FILE` at once and again when
the file exists, `GET /big` with a large body,
`GET /bug` fails, `GET /hang` says so and blocks the whole process.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import Any

import trio

from ojs_cluster.server.http.http_server import drain_times, hypercorn_config, serve
from ojs_cluster.server.supervision.child_process import (
    ChildProcess,
    StartRefused,
    run_child_process,
)

BIG = 64 * 1024 * 1024


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise NotImplementedError
    body = str(os.getpid()).encode()
    if scope["path"] == "/slow":
        # The first half at once, so that the client knows that its request is in flight.
        headers = [(b"content-length", str(2 * len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        gate = trio.Path(scope["query_string"].decode())
        while not await gate.exists():  # noqa: ASYNC110 - a file has no event
            await trio.sleep(0.02)
        await send({"type": "http.response.body", "body": body, "more_body": False})
        return
    if scope["path"] == "/big":
        body = b"x" * BIG
    elif scope["path"] == "/bug":
        raise RuntimeError("a bug in the application")
    elif scope["path"] == "/hang":
        print("hanging", file=sys.stderr, flush=True)
        time.sleep(600)  # noqa: ASYNC251 - the point: an event loop that does not turn
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def work(child: ChildProcess) -> None:
    if os.environ.get("ECHO_REFUSE") == child.name:
        raise StartRefused("told to refuse")
    listen = child.settings.listen
    sockets = [socket.socket(fileno=fd) for fd in child.listen_fds]
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[None]) -> None:
            await serve(
                app,
                hypercorn_config(listen),
                sockets,
                stop=child.stop,
                times=drain_times(listen),
                write_timeout_s=listen.write_timeout_s,
                task_status=task_status,
            )

        await nursery.start(run)
        child.ready()


if __name__ == "__main__":
    sys.exit(run_child_process(work))
