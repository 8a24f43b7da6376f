"""Send e-mails: a handler that blocks, with errors that are retried and errors that are not.

The mail server is ``SMTP_HOST`` and ``SMTP_PORT``. A producer enqueues one job per mail::

    await client.enqueue(
        "email.send", {"to": "ada@example.com", "subject": "Hello", "text": "..."}, queue="emails"
    )
"""

import os
import smtplib
from email.message import EmailMessage

from ojs_client import BlockingJob, Discard, Worker

SMTP_HOST = os.environ.get("SMTP_HOST", "localhost")
SMTP_PORT = int(os.environ.get("SMTP_PORT", "1025"))
SENDER = os.environ.get("MAIL_FROM", "shop@example.com")

# The address of the server and the API key come from OJS_URL and OJS_API_KEY.
worker = Worker(queues=["emails"], concurrency=8)


@worker.handler("email.send")
def send_email(job: BlockingJob) -> dict[str, str]:
    """Send one mail. ``smtplib`` blocks, so this is no coroutine: it runs in a thread."""
    mail = job.args[0]
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = SENDER, mail["to"], mail["subject"]
    # A job may run twice: the worker can die between the mail and the ack. All attempts send the
    # same Message-ID, by which mail programs recognize a copy.
    message["Message-ID"] = f"<{job.id}@{SENDER.partition('@')[2]}>"
    message.set_content(mail["text"])
    try:
        with smtplib.SMTP(SMTP_HOST, SMTP_PORT, timeout=20) as smtp:
            smtp.send_message(message)
    except smtplib.SMTPRecipientsRefused as refused:
        code, reason = refused.recipients[mail["to"]]
        if code < 500:
            raise  # "try later": any exception fails the attempt, and the retry policy repeats it
        # Each attempt would fail. Operators can inspect and retry the job as a dead letter.
        raise Discard(f"{code} {reason.decode(errors='replace')}", dead_letter=True) from refused
    return {"message_id": message["Message-ID"]}


if __name__ == "__main__":
    worker.run()
