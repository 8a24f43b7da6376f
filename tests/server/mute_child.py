"""A child for the supervisor's tests: the first says nothing and hangs, the next ones work.

The first creates a file (MUTE_FILE), by which the others differ from it.
"""

from __future__ import annotations

import os
import sys
import time

from ojs_cluster.server.supervision.child_process import ChildProcess, run_child_process


async def work(child: ChildProcess) -> None:
    child.ready()
    await child.stop.wait()


if __name__ == "__main__":
    try:
        os.close(os.open(os.environ["MUTE_FILE"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        sys.exit(run_child_process(work))
    time.sleep(3600)
