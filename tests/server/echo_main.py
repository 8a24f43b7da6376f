"""A supervisor over `echo_child`, as a program: the tests signal and kill it from outside.

Prints the port, then `ready`; its exit code is the supervisor's.
"""

from __future__ import annotations

import os
import sys

import trio

from ojs_cluster.server.commands.serve import make_supervisor
from ojs_cluster.server.config.load import load
from ojs_cluster.server.http.listener import open_listener
from ojs_cluster.server.start_log import start_logging
from ojs_cluster.server.supervision.supervisor import ChildSpec


def main() -> int:
    settings = load(os.environ)
    start_logging(settings, "test")
    listen = settings.listen
    listener = open_listener("127.0.0.1", 0, listen.backlog, listen.write_timeout_s)
    print(listener.getsockname()[1], flush=True)
    fd = listener.fileno()
    # Linux starts no program that has so much in one variable.
    overloaded, burden = os.environ.get("ECHO_OVERLOAD"), "x" * 200_000
    specs = [
        ChildSpec(
            name=f"echo-{index}",
            module="tests.server.echo_child",
            env={**os.environ, "BURDEN": burden if f"echo-{index}" == overloaded else ""},
            args=("--listen-fd", str(fd)),
            pass_fds=(fd,),
        )
        for index in range(listen.workers)
    ]
    supervisor = make_supervisor(settings, specs, [listener])

    async def announce() -> None:
        await supervisor.all_ready.wait()
        print("ready", flush=True)

    async def run() -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(announce)
            code = await supervisor.run()
            nursery.cancel_scope.cancel()
        return code

    return trio.run(run)


if __name__ == "__main__":
    sys.exit(main())
