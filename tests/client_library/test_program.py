"""A program that runs workers: what it logs, and how it ends when the server refuses it."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest

PRELUDE = """
    import logging
    import sys
    import httpx2
    from ojs_client import ApiError, Worker

    REFUSAL = {"error": {"code": "unauthorized", "message": "no key"}}
    log = logging.getLogger("ojs_client.worker")
    library = logging.getLogger("ojs_client")

    def run(worker_id, during_run=lambda: None):
        def refuse(request):
            if not request.url.path.endswith("/fetch"):
                return httpx2.Response(200, json={})
            during_run()
            return httpx2.Response(401, json=REFUSAL)
        transport = httpx2.MockTransport(refuse)
        Worker("http://a", worker_id=worker_id, transport=transport).run()

    def run_and_catch(*args):
        try:
            run(*args)
        except ApiError as error:
            return error
"""


def lines_of(program: str, *, status: int) -> list[str]:
    """Run a program in its own process, and return the lines on its stderr."""
    command = [sys.executable, "-c", dedent(PRELUDE) + dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done.stderr.splitlines()


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_worker_on_windows_drains_at_a_signal(loop: str) -> None:
    """Windows has no signal handlers of asyncio, no poll, no /proc and no sysconf."""
    lines = lines_of(
        """
        import asyncio.unix_events
        import itertools
        import os
        import select
        import signal
        from ojs_client.worker import memory

        def refuse(*_):
            raise NotImplementedError

        asyncio.unix_events._UnixSelectorEventLoop.add_signal_handler = refuse
        del select.poll, os.sysconf
        memory.resident_bytes.__defaults__ = (memory.Path("no such file"),)
        before = signal.getsignal(signal.SIGTERM)

        fetches = itertools.count(1)

        def reply(request):
            if request.url.path.endswith("/fetch") and next(fetches) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return httpx2.Response(200, json={"jobs": []})

        Worker("http://a", worker_id="w", transport=httpx2.MockTransport(reply)).run(LOOP)
        assert signal.getsignal(signal.SIGTERM) is before
        """.replace("LOOP", repr(loop)),
        status=0,
    )
    assert [line.partition(" INFO ")[2] for line in lines] == [
        "worker w starts: queues default, server http://a",
        "SIGTERM: drains",
        "worker w has stopped",
    ]


def test_after_its_end_a_worker_leaves_the_logging_to_the_program() -> None:
    lines = lines_of(
        """
        before = library.level, library.propagate, library.handlers[:]
        run_and_catch("w-1")
        assert (library.level, library.propagate, library.handlers) == before
        logging.basicConfig(level=logging.WARNING, format="program: %(message)s")
        log.info("an event")
        log.warning("a problem")
        run_and_catch("w-2")
        """,
        status=0,
    )
    assert [line.partition(" INFO ")[2] for line in lines] == [
        "worker w-1 starts: queues default, server http://a",
        "worker w-1 has stopped",
        "",
    ]
    assert lines[2] == "program: a problem"


def test_a_program_may_set_up_logging_while_a_worker_runs() -> None:
    lines = lines_of(
        """
        def set_up():
            logging.basicConfig(level=logging.WARNING, format="program: %(message)s")
            log.info("an event")
            log.warning("a problem")
            library.setLevel(logging.DEBUG)
            log.debug("a detail")

        run_and_catch("w-1", set_up)
        assert library.level == logging.DEBUG
        """,
        status=0,
    )
    assert "worker w-1 starts" in lines[0]
    assert lines[1:3] == ["program: a problem", "program: a detail"]
    assert lines[-1] == "program: worker w-1 has stopped"
    assert all(line.startswith("program: ") for line in lines[1:])


def test_a_level_that_a_program_sets_while_a_worker_runs_stays() -> None:
    lines_of(
        """
        run_and_catch("w-1", lambda: library.setLevel(logging.INFO))
        assert library.level == logging.INFO
        """,
        status=0,
    )


def test_each_refusal_that_no_one_catches_is_one_line() -> None:
    logs = "logging.basicConfig(level=logging.WARNING)\n"
    line = "http://a refuses this worker: 401 unauthorized: no key; OJS_API_KEY"
    for end in ('run_and_catch("w-1")\nrun("w-2")', 'raise run_and_catch("w-1")'):
        (shown,) = lines_of(logs + end, status=1)
        assert shown.startswith(line)
    *_, last = lines = lines_of(f'{logs}run_and_catch("w-1")\nraise KeyError("other")', status=1)
    assert (lines[0], last) == ("Traceback (most recent call last):", "KeyError: 'other'")


def test_an_error_of_the_application_keeps_its_traceback() -> None:
    """A lifespan may ask another server, which answers as the one that refuses a worker."""
    lines = lines_of(
        """
        from contextlib import asynccontextmanager

        @asynccontextmanager
        async def lifespan():
            raise ApiError(401, "unauthorized", "another server")
            yield

        logging.basicConfig(level=logging.WARNING)
        Worker("http://a", lifespan=lifespan).run()
        """,
        status=1,
    )
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].endswith("another server")


def test_the_hook_of_a_program_gets_its_refusals() -> None:
    program = """
        logging.basicConfig(level=logging.WARNING)
        sys.excepthook = lambda kind, *_: print("the hook got", kind.__name__, file=sys.stderr)
        run("w-1")
    """
    assert lines_of(program, status=1) == ["the hook got ApiError"]
