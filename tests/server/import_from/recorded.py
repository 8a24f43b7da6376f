"""Load the recorded keys of another job system into a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import redis

_DATA = Path(__file__).parent / "data"


def load(url: str, system: str) -> None:
    """Store the recorded keys of a system."""
    with redis.Redis.from_url(url) as client:
        for key, (kind, value) in json.loads((_DATA / f"{system}.json").read_text()).items():
            _store(client, key, kind, value)


def everything(url: str) -> dict[bytes, bytes | None]:
    """Return every key with its serialised value."""
    with redis.Redis.from_url(url) as client:
        keys: list[bytes] = sorted(client.scan_iter())
        return {key: client.dump(key) for key in keys}


def _store(client: Any, key: str, kind: str, value: Any) -> None:
    if kind == "string":
        client.set(key, value)
    elif kind == "list":
        client.rpush(key, *value)
    elif kind == "set":
        client.sadd(key, *value)
    elif kind == "zset":
        client.zadd(key, dict(value))
    else:
        client.hset(key, mapping=value)
