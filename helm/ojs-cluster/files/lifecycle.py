"""The hook of ``helm test``: runs one job as a client and a worker.

It reads OJS_URL (the Service), OJS_API_KEY or OJS_API_KEYS (empty: no key is sent), and OJS_CA, a
file with the authority of the Service's certificate (empty: certificates are not verified). The
exit code is 0 if the job was enqueued, fetched, acknowledged and found completed. Without a key, if
the API requires one, it is 0 if the API is healthy and refuses the request.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import sys
import time
import urllib.error
import urllib.request
import uuid
from typing import Any

PATIENCE_S = 60


def main() -> int:
    """Run the job and print the result."""
    # A container's first process ignores signals without a handler.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    if not api_key() and wants_key():
        print("ready; it wants a key: name one in tests.existingSecret, and a job will be run, too")
        return 0
    queue = f"helm-test-{uuid.uuid4().hex[:12]}"  # our own: no real worker may take the job
    # If this is interrupted, the job expires soon.
    options = {"queue": queue, "expires_at": "+PT10M"}
    job = call("POST", "/jobs", {"type": "helm.test", "args": [queue], "options": options})
    job_id = job["job"]["id"]
    print(f"enqueued {job_id}")
    worker = {"worker_id": queue}
    fetched = call("POST", "/workers/fetch", {"queues": [queue], "wait_ms": 5000, **worker})
    (held,) = fetched["jobs"]
    if (held["id"], held["args"]) != (job_id, [queue]):
        print(f"fetched something else: {held}")
        return 1
    done = {"job_id": job_id, "lease_id": held["lease_id"], "result": {"ok": True}}
    call("POST", "/workers/ack", {**done, **worker})
    state = call("GET", f"/jobs/{job_id}")["job"]["state"]
    print(f"fetched and acknowledged; it is {state}")
    return 0 if state == "completed" else 1


def api_key() -> str:
    """Return the key to send; empty for none."""
    return os.environ.get("OJS_API_KEY") or os.environ.get("OJS_API_KEYS", "").split(",")[0]


def wants_key() -> bool:
    """Return whether the API, once it is ready, refuses a request without a key."""
    call("GET", "/health")
    request = urllib.request.Request(f"{os.environ['OJS_URL']}/ojs/v1/jobs")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=10, context=trust()):  # noqa: S310
            return False
    except urllib.error.HTTPError as error:
        return error.code == 401


def call(method: str, path: str, body: Any = None) -> Any:
    """Call the API, and repeat the call until it answers, because pods may be starting.

    Every call may be repeated. A second enqueue adds a job that this worker may fetch instead of
    the first; then the test fails and can be run again.
    """
    key = api_key()
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(  # noqa: S310 - the Service's own http
        f"{os.environ['OJS_URL']}/ojs/v1{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers=headers,
        method=method,
    )
    deadline = time.monotonic() + PATIENCE_S
    tls = trust()
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10, context=tls) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            if error.code not in (502, 503, 504) or time.monotonic() > deadline:
                raise SystemExit(f"{method} {path}: {error.code} {text}") from None
        except OSError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"{method} {path}: {error}") from None
        time.sleep(1)


def trust() -> ssl.SSLContext:
    """Return the TLS context, with the authorities to trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if os.environ.get("OJS_CA"):
        context.load_verify_locations(os.environ["OJS_CA"])
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


if __name__ == "__main__":
    sys.exit(main())
