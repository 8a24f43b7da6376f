"""Where a process of ``ojs-worker`` begins. The supervisor imports it, and not the worker."""

from __future__ import annotations

from multiprocessing.connection import Connection

from ojs_client.worker_command.arguments import Options


def run_process(options: Options, number: int, max_jobs: int | None, link: Connection) -> None:
    """Run a worker in this process, see ``child.run``."""
    from ojs_client.worker_command.child import run

    run(options, number, max_jobs, link)
