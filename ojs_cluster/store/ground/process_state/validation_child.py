"""The process that validates args which may take long, one request at a time.

``validation_process`` starts it and speaks with it over its standard input and output. It imports
no more of the server than the validation needs, and ends when its input ends.

The kernel ends it with ``SIGPROF`` when a validation has used ``CPU_S`` of CPU time, even inside a
call of the library. CPU time is measured and not real time, so a busy machine does not make a
validation fail. Its memory is limited too.
"""

from __future__ import annotations

import resource
import signal
import struct
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from ojs_cluster.core.errors import SchemaRefused
from ojs_cluster.core.schemas.compiled import CompiledSchema, Problem

CPU_S: Final = 0.2
"""Maximum CPU time in seconds of a validation, and of its explanation."""
COMPILE_CPU_S: Final = 1.0
"""Maximum CPU time in seconds of compiling a schema, which takes up to 0.1 s. A slow processor must
not refuse all jobs of the type."""
MEMORY_BYTES: Final = 256 * 1024 * 1024
"""Maximum address space of this process in bytes. Args of 1 MiB take 60 MB."""
_KEPT_SCHEMAS: Final = 32
"""Maximum number of schemas that stay compiled."""

REQUEST: Final = struct.Struct("!?II")
"""Whether to explain, the size of the schema, the size of the args; then the schema and the args"""
READY: Final = b"+"
MISMATCH: Final = b"m"
"""Sent as soon as it is sure that the args do not match, before the problems are collected."""
RESULT: Final = b"r"
"""Begins the result: its size as ``SIZE``, then the problems as JSON."""
SIZE: Final = struct.Struct("!I")


def main() -> None:
    """Validate until the standard input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    # When memory runs out, Linux chooses this process before the one that serves clients. In a
    # cgroup with ``memory.oom.group``, as Kubernetes sets it, all processes of the container end.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    source = sys.stdin.buffer
    _send(READY)
    while len(head := source.read(REQUEST.size)) == REQUEST.size:
        explain, schema_size, args_size = REQUEST.unpack(head)
        document, args = source.read(schema_size), source.read(args_size)
        if len(args) < args_size:
            return  # the server has ended
        result = msgspec.json.encode(_check(document, args, explain=explain))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(RESULT + SIZE.pack(len(result)) + result)


def _check(document: bytes, args: bytes, *, explain: bool) -> list[Problem]:
    _limit_cpu_time(COMPILE_CPU_S)
    try:
        schema = _compiled(document)
    except SchemaRefused as error:
        return [Problem("/args", f"the stored schema cannot be used: {error.message}")]

    def report_mismatch() -> None:
        _send(MISMATCH)
        _limit_cpu_time(CPU_S)

    _limit_cpu_time(CPU_S)
    return schema.check(args, explain=explain, on_mismatch=report_mismatch)


def _limit_cpu_time(limit_s: float) -> None:
    """Let the kernel end this process when it has used this CPU time in seconds from now on."""
    signal.setitimer(signal.ITIMER_PROF, limit_s)


@lru_cache(maxsize=_KEPT_SCHEMAS)
def _compiled(document: bytes) -> CompiledSchema:
    return CompiledSchema(document)


def _send(message: bytes) -> None:
    sys.stdout.buffer.write(message)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
