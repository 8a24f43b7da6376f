"""Start programs that cannot outlive the process that started them.

A test run or a ``dev`` session that is killed with SIGKILL runs no clean-up code. So on Linux each
child asks the kernel to send it SIGKILL when its parent dies (``prctl`` with
``PR_SET_PDEATHSIG``). Two details matter:

- The kernel sends the signal when the *thread* that started the child ends, not the process. If a
  short-lived thread started a child, the child would be killed with this thread. trio's worker
  threads end after ten idle seconds. So one thread that lives as long as the process starts all
  children.
- ``preexec_fn`` runs Python between fork and exec, which may deadlock if the process has other
  threads. So a small launcher program calls ``prctl`` and then executes the real program. That
  takes about 30 ms, less than the start of a Redis server.

Other systems have no such signal. There, children continue to run if the parent is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

_LAUNCHER = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)  # the parent died before prctl, so the kernel would never send the signal
os.execv(sys.argv[2], sys.argv[2:])
"""


@cache
def _spawner() -> ThreadPoolExecutor:
    """Return an executor whose only thread starts all children; it ends with the interpreter."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="ojs-spawner")


def spawn(
    argv: Sequence[str],
    *,
    output: Path | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, killed when this process dies.

    A separate session does not receive a terminal's Ctrl-C: the caller decides the order in which
    its children stop.

    Args:
        argv: absolute path of the program, then its arguments.
        output: file to which stdout and stderr are appended; None inherits those of this process.
        env: the whole environment of the child; None inherits it.
        pass_fds: file descriptors that the child keeps under the same numbers.

    Raises:
        OSError: the program or the output file cannot be opened.
    """
    command = list(argv)
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *argv]
    return _spawner().submit(_start, command, output, env, tuple(pass_fds)).result()


def _start(
    command: list[str],
    output: Path | None,
    env: Mapping[str, str] | None,
    pass_fds: tuple[int, ...],
) -> subprocess.Popen[bytes]:
    output_file = None if output is None else output.open("ab")
    try:
        return subprocess.Popen(  # noqa: S603 - an argument list, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=output_file,
            stderr=None if output_file is None else subprocess.STDOUT,
            env=env,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    finally:
        if output_file is not None:
            output_file.close()
