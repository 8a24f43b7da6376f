"""An SMTP server that keeps the mails that it accepts."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class FakeSmtp:
    """The mails so far, and which recipients are refused.

    Args:
        port: the port on the loopback address.
        refusals: recipient -> replies to its next RCPT commands; after them it is accepted.
        mails: the accepted mails.
    """

    port: int
    refusals: dict[str, list[str]] = field(default_factory=dict)
    mails: list[str] = field(default_factory=list)


@contextmanager
def fake_smtp() -> Iterator[FakeSmtp]:
    """Run the server during the block."""

    class Session(socketserver.StreamRequestHandler):
        timeout = 60

        def handle(self) -> None:
            self.say("220 ready")
            while line := self.rfile.readline().decode().rstrip():
                verb, _, rest = line.partition(" ")
                match verb.upper():
                    case "RCPT":
                        to = rest.partition("<")[2].partition(">")[0]
                        replies = smtp.refusals.get(to)
                        self.say(replies.pop(0) if replies else "250 ok")
                    case "DATA":
                        self.say("354 go on")
                        mail = b""
                        while not mail.endswith(b"\r\n.\r\n"):
                            mail += self.rfile.readline()
                        smtp.mails.append(mail.decode())
                        self.say("250 ok")
                    case "QUIT":
                        self.say("221 bye")
                        return
                    case _:
                        self.say("250 ok")

        def say(self, reply: str) -> None:
            self.wfile.write(f"{reply}\r\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session) as server:
        server.daemon_threads = True
        smtp = FakeSmtp(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield smtp
        finally:
            server.shutdown()
            thread.join()
