"""The smallest loop with the system calls of an API process: the floor for any server in Python.

python -m loadtest.bench._smallest_loop PORT REDIS_PORT

It reads neither requests nor replies. A request is received with one call. One command for each
request is sent to Redis, all commands of a turn with one call. Each reply of Redis sends a
response. Commands and responses are constants of the size of real ones. Requests that arrive in two
pieces, and clients that do not wait for their responses, would break it.
"""

from __future__ import annotations

import select
import socket
import sys
from collections import deque

_SCRIPT = b"return 1"
_REPLY = b":1\r\n"
_BODY = b'{"job":{"id":"x","lease_id":"x","args":["%b"]}}' % (b"x" * 300)
_RESPONSE = b"HTTP/1.1 %d OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_ENQUEUE = b"POST /ojs/v1/jobs "


def command(*args: bytes) -> bytes:
    """Return a command as bytes."""
    return b"*%d\r\n%b" % (len(args), b"".join(b"$%d\r\n%b\r\n" % (len(a), a) for a in args))


def main() -> None:
    """Serve until the process is killed."""
    port, redis_port = int(sys.argv[1]), int(sys.argv[2])
    redis = socket.create_connection(("127.0.0.1", redis_port))
    redis.sendall(command(b"SCRIPT", b"LOAD", _SCRIPT))
    sha = redis.recv(1024).split(b"\r\n")[1]
    evaluate = command(b"EVALSHA", sha, b"4", *[b"k" * 40] * 4, *[b"a" * 30] * 9, b"b" * 150)
    enqueued, other = (_RESPONSE % (status, len(_BODY), _BODY) for status in (201, 200))
    listener = socket.create_server(("127.0.0.1", port), backlog=100)
    poll, clients = select.epoll(), dict[int, socket.socket]()
    for sock in (redis, listener):
        poll.register(sock.fileno(), select.EPOLLIN)
    waiting, begun, rest = deque[tuple[socket.socket, bytes]](), 0, 0
    while True:
        for number, _ in poll.poll():
            client = clients.get(number)
            if client is not None:
                data = client.recv(65_536)
                if data:
                    waiting.append((client, enqueued if data.startswith(_ENQUEUE) else other))
                    begun += 1
                else:
                    del clients[number]
                    client.close()
            elif number == redis.fileno():
                replies, rest = divmod(rest + len(redis.recv(65_536)), len(_REPLY))
                for _ in range(replies):
                    client, response = waiting.popleft()
                    client.send(response)
            else:
                client, _ = listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[client.fileno()] = client
                poll.register(client.fileno(), select.EPOLLIN)
        if begun:
            redis.sendall(evaluate * begun)
            begun = 0


if __name__ == "__main__":
    main()
