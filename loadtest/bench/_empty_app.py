"""A raw ASGI application that does nothing, on stock hypercorn with trio, as a baseline.

python -m loadtest.bench._empty_app PORT
"""

from __future__ import annotations

import sys
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Respond at once."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})


def main() -> None:
    """Serve until the process is killed."""
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    # The only changed setting: by default hypercorn closes a connection after 1000 requests.
    config.keep_alive_max_requests = 2**62
    serving: Any = serve
    trio.run(serving, app, config)


if __name__ == "__main__":
    main()
