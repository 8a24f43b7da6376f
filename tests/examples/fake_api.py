"""An API of invoices that counts the requests that it answers at the same time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(slots=True)
class FakeApi:
    """What the API has seen.

    Args:
        url: its address.
        throttled: invoices whose next request gets 429.
        answered: the invoices that it has returned.
        most: maximum number of requests at the same time.
    """

    url: str
    throttled: set[int]
    answered: list[int] = field(default_factory=list)
    most: int = 0


@contextmanager
def fake_api(throttled: set[int]) -> Iterator[FakeApi]:
    """Run the API during the block. The first two requests wait for each other."""
    lock, two = threading.Lock(), threading.Barrier(2)
    requests = at_once = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal requests, at_once
            with lock:
                requests += 1
                at_once += 1
                api.most = max(api.most, at_once)
                is_one_of_two = requests <= 2
            if is_one_of_two:
                two.wait(120)
            number = int(self.path.rpartition("/")[2])
            with lock:
                at_once -= 1
                busy = number in api.throttled
                api.throttled.discard(number)
                if not busy:
                    api.answered.append(number)
            body = json.dumps({"number": number, "amount": number * 10}).encode()
            self.send_response(429 if busy else 200)
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        api = FakeApi(f"http://127.0.0.1:{server.server_address[1]}", throttled)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()
