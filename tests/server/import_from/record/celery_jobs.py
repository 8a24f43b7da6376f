"""Write jobs with Celery: ``python celery_jobs.py redis://host:port/0``."""

# mypy: ignore-errors
# Celery is not among the packages of the tests.

from __future__ import annotations

import os
import sys
import threading
from datetime import UTC, datetime

from celery import Celery, chain

app = Celery("shop", broker=sys.argv[1], backend=sys.argv[1])
app.conf.update(result_extended=True)


@app.task(name="shop.tasks.send_email")
def send_email(address: str, subject: str = "") -> None:
    """Send an e-mail."""


@app.task(name="shop.tasks.Charge")
def charge(order: int) -> None:
    """Fail."""
    raise ValueError(f"card of order {order} refused")


@app.task(name="shop.tasks.add")
def add(a: int, b: int) -> int:
    """Return a sum."""
    return a + b


def main() -> None:
    """Send tasks, and run a worker that fails one and holds another that is not due."""
    send_email.apply_async(("a@example.com",), {"subject": "Größe"}, queue="mail")
    send_email.apply_async(("b@example.com",), queue="mail", priority=6, time_limit=90)
    eta = datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC)
    send_email.apply_async(("c@example.com",), queue="mail", eta=eta)
    expires = datetime(2041, 1, 1, tzinfo=UTC)
    send_email.apply_async(("d@example.com",), queue="mail", expires=expires)
    send_email.apply_async(("e@example.com",), queue="mail", serializer="pickle")
    send_email.apply_async(("f@example.com",), queue="late", eta=eta)
    add.apply_async((1, 2**60), queue="celery")
    chain(add.s(1, 2), add.s(3)).apply_async(queue="celery")
    charge.apply_async((7,), queue="Billing_EU")
    worker = app.Worker(queues=["Billing_EU", "late"], pool="solo", loglevel="CRITICAL")
    threading.Timer(20, lambda: os._exit(0)).start()
    worker.start()


if __name__ == "__main__":
    main()
