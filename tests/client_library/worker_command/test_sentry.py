"""Sentry's SDK gets the exceptions of handlers from the log of the worker."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import sentry_sdk
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport

from ojs_client import App
from ojs_client.testing import FakeServer

app = App()


@app.task
async def charge(amount: int) -> None:
    """Fail in a function that it calls."""
    refuse(amount)


def refuse(amount: int) -> None:
    raise LookupError(f"no card for {amount}")


class Sent(Transport):
    """Keeps the events that would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []

    def capture_envelope(self, envelope: Any) -> None:
        if (event := envelope.get_event()) is not None:
            self.events.append(event)


def test_an_exception_of_a_handler_is_an_event_with_its_frames() -> None:
    sent = Sent()
    sentry_sdk.init(
        "https://key@sentry.invalid/1",
        transport=sent,
        default_integrations=False,
        integrations=[LoggingIntegration(event_level=logging.WARNING)],
    )
    try:
        anyio.run(fail_once)
        (event,) = sent.events
    finally:
        sentry_sdk.get_client().close()
        sentry_sdk.get_global_scope().set_client(None)
    (exception,) = event["exception"]["values"]
    assert (exception["type"], exception["value"]) == ("LookupError", "no card for 7")
    functions = [frame["function"] for frame in exception["stacktrace"]["frames"]]
    assert functions[-2:] == ["charge", "refuse"]
    assert exception["stacktrace"]["frames"][-1]["vars"] == {"amount": "7"}
    assert event["extra"]["job_type"] == "charge"
    assert event["extra"]["attempt"] == 1
    assert event["logger"] == "ojs_client.worker"


async def fail_once() -> None:
    server = FakeServer()
    async with server.client() as client, server.running(app.worker()):
        with app.using(client):
            await charge.enqueue(amount=7)
        await server.run_all()
