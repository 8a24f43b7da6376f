"""Start a small cluster, print its process ids, and wait to be killed."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from ojs_cluster.server.embedded.servers import Embedded, find_server

if __name__ == "__main__":
    with Embedded(Path(sys.argv[1]), binary=find_server(), append_only=False) as embedded:
        for node in embedded.nodes:
            print(node.pid, flush=True)
        print("started", flush=True)
        signal.pause()
