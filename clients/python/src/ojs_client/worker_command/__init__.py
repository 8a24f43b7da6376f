"""``ojs-worker``: run the workers of an application in several processes."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code.

    Args:
        arguments: the arguments of the command line; None for those of the process.
    """
    from ojs_client.worker_command.arguments import parse
    from ojs_client.worker_command.logs import configure
    from ojs_client.worker_command.supervisor import Supervisor

    options = parse(arguments)
    configure(options.log_level, options.log_format, "supervisor")
    return Supervisor(options).run()
