"""A worker whose handler does not end: ``python -m tests.client_library.exiting URL LOOP HOW``.

HOW is ``refused``: a thread runs while the server refuses a fetch; or ``shielded``: an async
handler ignores its cancellation after a SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import anyio
import httpx2

from ojs_client import BlockingJob, RunningJob, Worker
from tests.client_library.faults import Watched
from tests.client_library.workers import QUEUE


def main() -> None:
    url, loop, how = sys.argv[1:]
    started = threading.Event()

    def refuse(path: str, body: Any) -> httpx2.Response | None:
        if not (path.endswith("fetch") and how == "refused" and started.is_set()):
            return None
        return httpx2.Response(401, json={"error": {"code": "unauthorized", "message": "no key"}})

    worker = Worker(url, queues=[QUEUE], poll=0.5, grace=0.1, transport=Watched(instead=refuse))

    @worker.handler("t.refused")
    def stay(job: BlockingJob) -> None:
        started.set()
        threading.Event().wait()

    @worker.handler("t.shielded")
    async def shielded(job: RunningJob) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        with anyio.CancelScope(shield=True):
            await anyio.sleep_forever()

    worker.run(backend="trio" if loop == "trio" else "asyncio")


if __name__ == "__main__":
    main()
