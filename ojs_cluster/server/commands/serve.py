"""The command ``serve``, and the code that the commands share."""

from __future__ import annotations

import logging
import mmap
import os
import socket
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from math import inf

import trio

from ojs_cluster.server import telemetry
from ojs_cluster.server.config.load import ConfigError, Settings
from ojs_cluster.server.http.listener import open_listener
from ojs_cluster.server.read_api_keys import key_file_problems
from ojs_cluster.server.start_log import log_unusual_settings, start_logging
from ojs_cluster.server.supervision.supervisor import ChildSpec, Supervisor
from ojs_cluster.server.tls import TlsFilesError, make_context
from ojs_cluster.store.ground.process_state.suspect_schemas import SuspectSchemas

log = logging.getLogger("ojs.server")

API_MODULE = "ojs_cluster.server.processes.api_process"
SCHEDULER_MODULE = "ojs_cluster.server.processes.scheduler_process"


def run_serve(settings: Settings, environ: Mapping[str, str]) -> int:
    """Run API processes until a stop signal; return the exit code.

    Args:
        settings: the configuration.
        environ: the environment of ``settings``; the API processes read their settings from it.

    Raises:
        ConfigError: the API must not or cannot be served as configured.
    """
    check_serving(settings, environ)
    start_logging(settings, "serve")
    log_unusual_settings(settings)
    listen = settings.listen
    try:
        listener = open_listener(listen.host, listen.port, listen.backlog, listen.write_timeout_s)
    except OSError as error:
        print(
            f"ojs-cluster: cannot listen on {listen.host} port {listen.port}: {error.strerror}",
            file=sys.stderr,
        )
        return 1
    specs = api_specs(settings, environ, listener)
    reloads = bool(settings.access.keys_file)
    supervisor = make_supervisor(settings, specs, [listener], forward_hangup=reloads)

    async def run() -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_announce, supervisor, settings)
            code = await supervisor.run()
            nursery.cancel_scope.cancel()
        return code

    return trio.run(run)


def check_serving(settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
    """Check the settings that only a server of the API needs.

    Args:
        settings: the configuration.
        environ: the environment, with the secrets that the file of API keys names.

    Raises:
        ConfigError: no API key is set and serving without one is not allowed, a file of
            certificates or API keys is invalid, or OpenTelemetry is not installed although traces
            are switched on.
    """
    candidates = (settings.access.problem, telemetry.problem(settings.telemetry))
    problems = [problem for problem in candidates if problem is not None]
    problems += key_file_problems(settings.access, environ)
    if settings.listen.tls_cert:
        try:
            make_context(settings.listen)
        except TlsFilesError as problem:
            problems.append(str(problem))
    if problems:
        raise ConfigError(problems)


async def _announce(supervisor: Supervisor, settings: Settings) -> None:
    await supervisor.all_ready.wait()
    listen = settings.listen
    log.info(
        "ready to serve",
        extra={"host": listen.host, "port": listen.port, "workers": listen.workers},
    )


def api_specs(
    settings: Settings, environ: Mapping[str, str], listener: socket.socket
) -> list[ChildSpec]:
    """Return the API processes to start.

    They inherit the listening socket, and shared memory for the counters of requests and for what
    each of them validates.
    """
    listen_fd = listener.fileno()
    shared_fd = create_shared_memory()
    size = SuspectSchemas.size(settings.listen.workers)
    os.ftruncate(shared_fd, size)
    suspects = SuspectSchemas(memoryview(mmap.mmap(shared_fd, size)))
    return [
        ChildSpec(
            name=f"api-{index}",
            module=API_MODULE,
            env=environ,
            args=(
                "--listen-fd",
                str(listen_fd),
                "--index",
                str(index),
                "--shared-fd",
                str(shared_fd),
            ),
            pass_fds=(listen_fd, shared_fd),
            on_end=partial(_blame, suspects, index),
        )
        for index in range(settings.listen.workers)
    ]


def _blame(suspects: SuspectSchemas, index: int) -> None:
    """Make suspect the schema with which an API process validated when it ended."""
    if suspects.blame(index):
        log.error(
            "api-%d ended while it validated args: for ten minutes, its schema is only used in a "
            "child process; the overview of the dashboard names the schema",
            index,
        )


def create_shared_memory() -> int:
    """Return a descriptor of empty memory; the child processes extend it and map it."""
    # Without memfd_create (macOS) a temporary file takes its place. It would not work in a
    # container with a read-only file system.
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("ojs-counters")
    else:
        fd, path = tempfile.mkstemp()
        os.unlink(path)
    return fd


def make_supervisor(
    settings: Settings,
    specs: list[ChildSpec],
    listeners: list[socket.socket],
    *,
    forward_hangup: bool = False,
) -> Supervisor:
    """Return the supervisor of these children, with the configured timeouts.

    With ``forward_hangup``, the supervisor passes SIGHUP to the children, so they reload their API
    keys.
    """
    listen = settings.listen
    return Supervisor(
        specs,
        stop_timeout_s=listen.shutdown_delay_s + listen.shutdown_timeout_s,
        watchdog_s=listen.watchdog_s or inf,
        listeners=listeners,
        forward_hangup=forward_hangup,
    )
