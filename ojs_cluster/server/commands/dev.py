"""``ojs-cluster dev``: an embedded cluster, API processes and a scheduler with one command."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import trio

from ojs_cluster.redis.node_link import Backoff
from ojs_cluster.server.commands.serve import (
    SCHEDULER_MODULE,
    api_specs,
    check_serving,
    make_supervisor,
)
from ojs_cluster.server.config.load import ConfigError, Settings, load
from ojs_cluster.server.embedded.servers import (
    Embedded,
    EmbeddedError,
    EmbeddedNode,
    ServerNotFound,
    find_server,
)
from ojs_cluster.server.http.listener import open_listener
from ojs_cluster.server.private_files import (
    NotPrivate,
    open_private,
    private_folder,
    stored_password,
)
from ojs_cluster.server.start_log import log_warnings, start_logging
from ojs_cluster.server.supervision.stop_signals import stop_signals
from ojs_cluster.server.supervision.supervisor import ChildSpec, Supervisor

log = logging.getLogger("ojs.dev")

_LOOPBACK = "127.0.0.1"
_MAX_PORTS_TRIED = 100
PASSWORD_FILE = "password"  # noqa: S105 - the name of the file
"""Name of the file in the data folder that holds the embedded servers' password."""
_NODE_CHECK_S = 1.0
_NODE_BACKOFF_MIN_S, _NODE_BACKOFF_MAX_S = 1.0, 30.0
_DEFAULTS = {
    "OJS_HOST": _LOOPBACK,
    "OJS_WORKERS": "2",
    "OJS_LOG_FORMAT": "text",
    "OJS_UI": "full",
    # Short, because a developer waits for the end of the drain at the terminal.
    "OJS_SHUTDOWN_TIMEOUT": "5s",
}
"""Values for variables that are not set. They replace the defaults of ``serve``."""


@dataclass(frozen=True, slots=True)
class DevOptions:
    """The options of ``dev``.

    Attributes:
        server: the server program: one of ``binaries.CHOICES``, or a path.
        data: folder with the data of the embedded cluster.
        masters: number of masters of the embedded cluster.
        demo: whether to fill the embedded cluster with a living example.
    """

    server: str
    data: Path
    masters: int
    demo: bool = False


class _DevError(Exception):
    """``dev`` cannot run; the message is for the developer."""


def run_dev(options: DevOptions, environ: Mapping[str, str]) -> int:
    """Run everything until Ctrl-C; return the exit code.

    Raises:
        ConfigError: a variable has a wrong value.
    """
    if options.demo:
        _check_demo(environ)
    merged = _with_defaults(environ)
    # Checked before the embedded cluster starts, so that a wrong value is reported at once.
    settings = load(merged)
    check_serving(settings, merged)
    # Until trio handles signals, a stop signal raises KeyboardInterrupt. Then the ExitStack stops
    # the embedded cluster.
    for number in stop_signals():
        signal.signal(number, signal.default_int_handler)
    try:
        with contextlib.ExitStack() as stack:
            # First, because it is the quicker one to fail.
            listener = stack.enter_context(_listener(settings, bool(environ.get("OJS_PORT"))))
            merged["OJS_PORT"] = str(listener.getsockname()[1])
            embedded: Embedded | None = None
            if not merged.get("REDIS_URL"):
                embedded = stack.enter_context(_embedded_cluster(options))
                merged["REDIS_URL"] = embedded.url
            settings = load(merged)
            start_logging(settings, "dev")
            log_warnings(settings)
            return trio.run(_run, settings, merged, listener, embedded, options.demo)
    except (_DevError, EmbeddedError, NotPrivate, ServerNotFound) as error:
        print(f"ojs-cluster dev: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _with_defaults(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with the defaults of ``dev``.

    Without API keys, serve all clients of this machine.

    Raises:
        ConfigError: no API key is set, and other machines could connect.
    """
    merged = dict(environ)
    for name, value in _DEFAULTS.items():
        if not merged.get(name):
            merged[name] = value
    has_key = any(map(merged.get, ("OJS_API_KEY", "OJS_API_KEYS", "OJS_API_KEYS_FILE")))
    if not has_key and not merged.get("OJS_ALLOW_INSECURE_NO_AUTH"):
        if merged["OJS_HOST"] not in (_LOOPBACK, "localhost", "::1", "[::1]"):
            raise ConfigError(
                [
                    f"OJS_HOST={merged['OJS_HOST']}: other machines could connect without an API "
                    "key: set OJS_API_KEY, or set OJS_ALLOW_INSECURE_NO_AUTH=true to allow this"
                ]
            )
        merged["OJS_ALLOW_INSECURE_NO_AUTH"] = "true"
    return merged


def _check_demo(environ: Mapping[str, str]) -> None:
    """Check that the demo can reach the server, and that it fills no server in use.

    Raises:
        ConfigError: it cannot, or it would.
    """
    problems = []
    if environ.get("REDIS_URL"):
        problems.append("REDIS_URL: --demo fills a cluster of its own with jobs: unset REDIS_URL")
    if environ.get("OJS_TLS_CERT"):
        problems.append("OJS_TLS_CERT: --demo uses plain HTTP: unset OJS_TLS_CERT")
    has_key = environ.get("OJS_API_KEY") or environ.get("OJS_API_KEYS")
    if environ.get("OJS_API_KEYS_FILE") and not has_key:
        problems.append("OJS_API_KEYS_FILE: --demo needs a key with all scopes: set OJS_API_KEY")
    if problems:
        raise ConfigError(problems)


@contextlib.contextmanager
def _embedded_cluster(options: DevOptions) -> Iterator[Embedded]:
    """Run the embedded cluster during the block, with a lock on its folder."""
    directory = options.data.absolute()
    with _locked(directory):
        binary = find_server(options.server)
        print(
            f"Starting {options.masters} {binary.kind} {binary.version} masters in {directory} ...",
            flush=True,
        )
        try:
            password = stored_password(directory / PASSWORD_FILE)
        except OSError as error:
            raise _DevError(f"cannot use {directory / PASSWORD_FILE}: {error.strerror}") from error
        with Embedded(
            directory, binary=binary, masters=options.masters, password=password
        ) as embedded:
            yield embedded


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Lock the folder during the block; create it if it is missing.

    Raises:
        _DevError: another process holds the lock, or the folder cannot be used.
    """
    try:
        private_folder(directory)
        fd = open_private(str(directory / "lock"), os.O_RDWR | os.O_CREAT)
    except NotPrivate as error:
        raise _DevError(f"{error}: choose another folder with --data DIR") from None
    except OSError as error:
        raise _DevError(f"cannot use {directory}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
            raise _DevError(
                f"another `ojs-cluster dev` (process {holder}) uses {directory}; stop it, or "
                "choose another folder with --data DIR"
            ) from None
        os.truncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def _listener(settings: Settings, port_is_given: bool) -> Iterator[socket.socket]:
    """Listen on the configured port, or on the first free port from the default port on.

    Args:
        settings: the configuration.
        port_is_given: whether ``OJS_PORT`` is set. Then no other port is tried.

    Raises:
        _DevError: the process cannot listen on any of these ports.
    """
    listen = settings.listen
    count = 1 if port_is_given else _MAX_PORTS_TRIED
    ports = range(listen.port, min(listen.port + count, 65_536))
    last_error: OSError | None = None
    for port in ports:
        try:
            sock = open_listener(listen.host, port, listen.backlog, listen.write_timeout_s)
        except OSError as error:
            last_error = error
            continue
        if port != listen.port:
            print(f"Port {listen.port} is in use, so the server listens on {port}.", flush=True)
        with sock:
            yield sock
        return
    tried = f"{listen.host} port {ports[0]}" + ("" if port_is_given else f" to {ports[-1]}")
    raise _DevError(f"cannot listen on {tried}: {last_error}") from last_error


async def _run(
    settings: Settings,
    environ: Mapping[str, str],
    listener: socket.socket,
    embedded: Embedded | None,
    demo: bool,
) -> int:
    specs = api_specs(settings, environ, listener)
    specs.append(ChildSpec(name="scheduler", module=SCHEDULER_MODULE, env=environ))
    supervisor = make_supervisor(settings, specs, [listener])
    closing = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_show_banner, supervisor, settings, embedded, demo)
        if demo:
            nursery.start_soon(_demonstrate, supervisor, settings)
        if embedded is not None:
            for node in embedded.nodes:
                nursery.start_soon(restart_node_when_dead, embedded, node, closing)
        try:
            code = await supervisor.run()
        finally:
            closing.set()  # trio cannot cancel the threads that wait for a node
        nursery.cancel_scope.cancel()
    print("Stopped.", flush=True)
    return code


async def restart_node_when_dead(
    embedded: Embedded, node: EmbeddedNode, closing: threading.Event
) -> None:
    """Restart a node of the embedded cluster each time it has ended; run until cancelled.

    Args:
        embedded: the cluster.
        node: the node.
        closing: ends a thread that waits for the node. It must be set before the cancellation.
    """
    backoff = Backoff(_NODE_BACKOFF_MIN_S, _NODE_BACKOFF_MAX_S)
    while True:
        await trio.sleep(_NODE_CHECK_S)
        if node.is_alive():
            continue
        log.warning("server %s died; starting it again", node.address)
        try:
            await trio.to_thread.run_sync(embedded.restart, node, closing)
        except (EmbeddedError, OSError) as error:
            if not closing.is_set():
                log.warning("server %s could not be started: %s", node.address, error)
                await trio.sleep(backoff.next_s())
        else:
            backoff.reset()


async def _demonstrate(supervisor: Supervisor, settings: Settings) -> None:
    """Run the demo from the start of the server to its stop."""
    from ojs_cluster.server.demo.client import DemoClient
    from ojs_cluster.server.demo.run import run_demo

    await supervisor.all_ready.wait()
    key = settings.access.keys[0] if settings.access.keys else ""
    client = DemoClient(settings.listen.host, settings.listen.port, key)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_demo, client)
        await supervisor.wait_stopping()
        nursery.cancel_scope.cancel()


async def _show_banner(
    supervisor: Supervisor, settings: Settings, embedded: Embedded | None, demo: bool
) -> None:
    await supervisor.all_ready.wait()
    print(banner(settings, embedded, demo), flush=True)


def banner(settings: Settings, embedded: Embedded | None, demo: bool) -> str:
    """Return the text that ``dev`` prints once everything runs."""
    listen = settings.listen
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    url = f"{'https' if listen.tls_cert else 'http'}://{host}:{listen.port}"
    access = settings.access
    keys = access.keys or access.keys_file
    auth_line = '  -H "Authorization: Bearer $OJS_API_KEY" \\\n' if keys else ""
    redis = ", ".join(node.address for node in embedded.nodes) if embedded else "from REDIS_URL"
    data = (
        f"\n  Password   in {embedded.directory / PASSWORD_FILE}, for Redis"
        f"\n  Data       {embedded.directory} (kept; delete it to start over)"
        if embedded
        else ""
    )
    needed_key = "with the key in OJS_API_KEY" if keys else "no key needed, this machine only"
    if access.keys_file:
        needed_key = "with a key of OJS_API_KEYS_FILE"
    shown = settings.ui.mode != "off"
    example = "" if demo else "  (a living example: make demo, or ojs-cluster dev --demo)"
    dashboard = f"  Dashboard  {url}{settings.ui.base}/ui/{example}\n" if shown else ""
    processes = "1 API process" if listen.workers == 1 else f"{listen.workers} API processes"
    return f"""
  ojs-cluster is running: {processes}, 1 scheduler.

{dashboard}  API        {url}/ojs/v1  ({needed_key})
  Health     {url}/ojs/v1/health
  Manifest   {url}/ojs/manifest
  Redis      {redis}{data}

  Try it:

  curl -s {url}/ojs/v1/jobs \\
{auth_line}  -H 'Content-Type: application/json' \\
  -d '{{"type": "email.send", "args": ["user@example.com", "Welcome!"]}}'

  Ctrl-C stops everything.
"""
