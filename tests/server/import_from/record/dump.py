"""Print every key of a Redis database as JSON: ``python dump.py redis://host:port/0``."""

from __future__ import annotations

import json
import sys
from typing import Any

import redis

READ = {
    "string": lambda client, key: client.get(key),
    "list": lambda client, key: client.lrange(key, 0, -1),
    "set": lambda client, key: sorted(client.smembers(key)),
    "zset": lambda client, key: client.zrange(key, 0, -1, withscores=True),
    "hash": lambda client, key: client.hgetall(key),
}
"""How to read each kind of key. Streams are left out: they only notify listeners."""


def main(url: str) -> None:
    """Print the keys with their kinds and values."""
    client: Any = redis.Redis.from_url(url, decode_responses=True)
    found = {}
    for key in sorted(client.scan_iter()):
        kind = client.type(key)
        if kind in READ:
            read: Any = READ[kind]
            found[key] = [kind, read(client, key)]
    json.dump(found, sys.stdout, indent=1, ensure_ascii=False)
    print()


if __name__ == "__main__":
    main(sys.argv[1])
