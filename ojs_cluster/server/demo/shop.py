"""What the shop of the demo does: its jobs, its schedules, and how its handlers end.

The outcome of a job follows from its number, so that the demo is the same at each start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

PAUSED: Final = "newsletter"
"""A queue that is paused with jobs in it. No worker serves it."""
LIMITS: Final = {"billing": {"concurrency": 2, "rate": {"limit": 45, "period": "PT1M"}}}
"""Limits by queue."""
SMTP: Final = {"key": "smtp.example.com", "concurrency": 1}
"""A limit that the e-mails share."""
CRONS: Final[tuple[Mapping[str, Any], ...]] = (
    {
        "name": "nightly-report",
        "cron": "0 3 * * *",
        "timezone": "Europe/Berlin",
        "description": "The numbers of the day for the management",
        "type": "report.build",
        "args": [{"report": "nightly", "number": 1}],
        "options": {"queue": "reports"},
    },
    {
        "name": "stock-check",
        "cron": "* * * * *",
        "description": "Compares the stock with the orders",
        "type": "stock.compare",
        "args": [{"number": 1}],
        "options": {"queue": "reports"},
    },
)
_ONCE: Final = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
_SOON: Final = {"max_attempts": 4, "initial_interval": "PT5S", "on_exhaustion": "dead_letter"}


@dataclass(frozen=True, slots=True)
class DemoWorker:
    """A worker of the demo.

    Attributes:
        name: its id.
        host: the name of its machine.
        queues: the queues that it serves.
        takes_s: how long a job takes, in seconds.
        language: the language of its SDK.
    """

    name: str
    host: str
    queues: tuple[str, ...]
    takes_s: float
    language: str = "python"


WORKERS: Final = (
    DemoWorker("mailer-1", "web-1", ("email",), 0.4),
    DemoWorker("mailer-2", "web-2", ("email",), 0.6),
    DemoWorker("resizer-1", "media-1", ("media", "default"), 1.0, "go"),
    DemoWorker("biller-1", "web-1", ("orders", "billing"), 0.6, "ruby"),
    DemoWorker("reporter-1", "batch-1", ("reports",), 6.0),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that a handler reports, in the form of a nack."""

    kind: str
    code: str
    message: str
    backtrace: tuple[str, ...]

    def json(self, number: int) -> dict[str, Any]:
        """Return the ``error`` of a nack; ``number`` makes its message different from others."""
        return {
            "type": self.kind,
            "code": self.code,
            "message": self.message.format(number=number),
            "backtrace": list(self.backtrace),
        }


_FAILURES: Final = {
    "email.send": Failure(
        "SMTPServerDisconnected",
        "smtp_disconnected",
        "Connection unexpectedly closed by mail.example.com:587 after message {number}",
        ("File 'shop/mail.py', line 41, in send", "  server.send_message(message)"),
    ),
    "image.resize": Failure(
        "UnidentifiedImageError",
        "bad_image",
        "cannot identify image file 'upload-{number}.jpg'",
        ("File 'shop/media.py', line 17, in resize", "  image = Image.open(path)"),
    ),
    "card.charge": Failure(
        "CardDeclined",
        "card_declined",
        "The bank declined the charge of order {number}: insufficient funds",
        ("File 'shop/billing.rb', line 88, in charge", "  gateway.charge!(order)"),
    ),
    "report.build": Failure(
        "TimeoutError",
        "timeout",
        "The query of report {number} took more than 30 s",
        ("File 'shop/reports.py', line 9, in build", "  rows = database.fetch(QUERY)"),
    ),
}


def failure_of(kind: str, number: int) -> dict[str, Any] | None:
    """Return the error with which a job fails, or None if it succeeds.

    Args:
        kind: the type of the job.
        number: its number.
    """
    found = _FAILURES.get(kind)
    return found.json(number) if found is not None and number % 6 == 5 else None


def jobs_of(number: int) -> list[dict[str, Any]]:
    """Return the jobs that one order brings.

    Args:
        number: the number of the order.
    """
    address = f"user{number % 400}@example.com"
    jobs = [
        _job(
            "email.send",
            "email",
            [{"to": address, "subject": "Thanks", "number": number}],
            rate_limit=SMTP,
        ),
        _job(
            "card.charge",
            "billing",
            [{"order": number, "cents": 1999, "number": number}],
            retry=_ONCE,
            tags=["money"],
            priority=10,
        ),
    ]
    if number % 2:
        jobs.append(_job("image.resize", "media", [{"file": f"{number}.jpg", "number": number}]))
    if number % 5 == 0:
        jobs.append(_job("report.build", "reports", [{"customer": address, "number": number}]))
    if number % 3 == 0:
        later = {"scheduled_at": "+PT2H"}
        jobs.append(_job("survey.send", "email", [{"to": address, "number": number}], **later))
    return jobs


def newsletters() -> list[dict[str, Any]]:
    """Return the jobs of the paused queue."""
    return [
        _job("newsletter.send", PAUSED, [{"to": f"user{number}@example.com", "number": number}])
        for number in range(40)
    ]


def workflow_of(number: int) -> dict[str, Any]:
    """Return the workflow of an order: pay, then pack and tell the customer, then ship.

    Args:
        number: the number of the order.
    """

    def step(name: str, kind: str, *before: str) -> dict[str, Any]:
        args = [{"order": number, "number": number}]
        return {
            "id": name,
            "type": kind,
            "args": args,
            "depends_on": list(before),
            "options": {"queue": "orders"},
        }

    return {
        "name": f"order {number}",
        "steps": [
            step("pay", "order.pay"),
            step("pack", "order.pack", "pay"),
            step("invoice", "order.invoice", "pay"),
            step("ship", "order.ship", "pack", "invoice"),
            step("review", "order.review", "ship"),
        ],
    }


def _job(kind: str, queue: str, args: list[Any], **options: Any) -> dict[str, Any]:
    given = {"queue": queue, "retry": _SOON, **options}
    return {"type": kind, "args": args, "options": given}
