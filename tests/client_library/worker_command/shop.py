"""The application of the tests of ``ojs-worker``."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import anyio

from ojs_client import App, BlockingJob, Worker

app = App(prefix="shop")
worker = Worker(queues=["nowhere"])
fixed = Worker(queues=["nowhere"], worker_id="fixed")
kept: list[Any] = []


@app.task
async def where() -> int:
    """Return the process."""
    return os.getpid()


@app.task
async def wait(path: str) -> str:
    """Begin, and end when a file exists."""
    await anyio.Path(f"{path}.begun").touch()
    while not await anyio.Path(path).exists():  # noqa: ASYNC110
        await anyio.sleep(0.02)
    return "ended"


@app.task
async def crash() -> None:
    """End the process as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
async def linger() -> int:
    """Start a thread that does not end; return the process."""
    threading.Thread(target=time.sleep, args=(3600,)).start()
    return os.getpid()


@app.task
def stick(path: str) -> None:
    """Write the process, and do not end."""
    file = Path(f"{path}.new")
    file.write_text(str(os.getpid()))
    file.rename(path)
    time.sleep(3600)


@app.task
async def fail(name: str) -> None:
    """Raise an exception."""
    raise KeyError(name)


@app.task
async def keep(megabytes: int) -> int:
    """Leak memory; return the process."""
    kept.append(b"x" * (megabytes << 20))
    return os.getpid()


@app.task(process=True)
def compute(number: int) -> list[int]:
    """Return the process, and a number."""
    return [os.getppid(), number * 2]


@app.task(process=True)
def hold(path: str) -> None:
    """Write the processes, and go on."""
    file = Path(f"{path}.new")
    file.write_text(f"{os.getppid()} {os.getpid()}")
    file.rename(path)
    time.sleep(3600)


@worker.handler("shop.handled")
def handled(job: BlockingJob) -> str:
    """Return the queue, for a worker without tasks."""
    return job.queue
