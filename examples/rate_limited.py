"""Call an API that allows few requests: all workers together keep its limit.

``python rate_limited.py 17 18`` enqueues the invoices 17 and 18. Then the program works until
SIGTERM. ``API_URL`` is the address of the API.
"""

import os
import sys
from datetime import timedelta

import anyio
import httpx2

from ojs_client import Client, Retry, RetryPolicy, RunningJob, Worker, new_job

LIMIT = {
    "key": "invoices-api",  # jobs of all queues with this key share the limit
    "concurrency": 2,
    "rate": {"limit": 100, "period": "PT1M"},
}
worker = Worker(queues=["invoices"], concurrency=20)
http = httpx2.AsyncClient(base_url=os.environ.get("API_URL", "http://localhost:9000"), timeout=30)


@worker.handler("invoice.fetch", timeout=60)
async def fetch_invoice(job: RunningJob) -> dict[str, object]:
    """Fetch an invoice. The server starts the job when the limit allows it."""
    response = await http.get(f"/invoices/{job.args[0]}")
    if response.status_code == 429:
        # Other programs use the API, too. Until the hold ends, no worker gets a job of the key.
        pause = timedelta(seconds=int(response.headers.get("Retry-After", "5")))
        raise Retry("the API asks for a pause", code="throttled", hold=pause)
    response.raise_for_status()
    invoice: dict[str, object] = response.json()
    return invoice


async def main() -> None:
    """Enqueue the invoices of the command line, then work."""
    async with Client() as client, http:
        await client.enqueue_many(
            new_job(
                "invoice.fetch",
                int(number),
                queue="invoices",
                rate_limit=LIMIT,
                retry=RetryPolicy(max_attempts=10),
            )
            for number in sys.argv[1:]
        )
        print(f"enqueued {len(sys.argv) - 1} invoices: works until Ctrl-C", flush=True)
        await worker.serve(signals=True)


if __name__ == "__main__":
    anyio.run(main)
