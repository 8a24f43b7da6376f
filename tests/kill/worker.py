"""A worker to be killed: ``python -m tests.kill.worker URL QUEUE WORKER_ID LEASE_MS BEAT_S``.

It fetches up to 10 jobs, prints their ids as one JSON line and never finishes them. If BEAT_S is
above 0, it sends a heartbeat at this interval in seconds, and prints the line when its heartbeat
has become steady.
"""

from __future__ import annotations

import itertools
import json
import sys
import time

import httpx

STEADY = 4
"""Number of heartbeats after which the server expects more. A single heartbeat has no such effect.
"""


def main() -> None:
    url, queue, worker, lease_ms, beat_s = sys.argv[1:]
    with httpx.Client(base_url=url, timeout=60) as client:
        body = {"queues": [queue], "worker_id": worker, "count": 10}
        body["visibility_timeout_ms"] = int(lease_ms)
        jobs = client.post("/ojs/v1/workers/fetch", json=body).raise_for_status().json()["jobs"]
        ids = [job["id"] for job in jobs]
        beat = {"worker_id": worker, "active_jobs": ids}
        for number in itertools.count():
            if number == (STEADY if float(beat_s) else 0):
                print(json.dumps(ids), flush=True)
            time.sleep(float(beat_s) or 60)
            if float(beat_s):
                client.post("/ojs/v1/workers/heartbeat", json=beat).raise_for_status()


if __name__ == "__main__":
    main()
