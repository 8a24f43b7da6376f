"""Read the Redis of another system in pages, by commands that change nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import redis

PAGE = 500
"""Number of entries that one command reads."""
_SOCKET_TIMEOUT_S = 30


def as_text(raw: bytes) -> str:
    """Return a name or id as text, with replacements for bytes that are not UTF-8."""
    return raw.decode(errors="replace")


class InvalidUrl(Exception):
    """The URL of the other system's Redis is not valid."""


class Source:
    """The Redis of another system. Not thread-safe, and it blocks: use it in a thread.

    Args:
        url: ``redis://`` or ``rediss://`` URL with the number of the database.
        prefix: prefix of the keys; '' for the usual one of the system.

    Raises:
        InvalidUrl: the URL is not valid.
        redis.RedisError: the server cannot be reached, or refuses the credentials.
    """

    def __init__(self, url: str, prefix: str = "") -> None:
        self.prefix = prefix
        try:
            client = redis.Redis.from_url(url, socket_timeout=_SOCKET_TIMEOUT_S)
        except ValueError:
            # The text of the error may have a part of the password.
            raise InvalidUrl(
                "the URL is not valid: it is redis://user:password@host:port/database, and "
                "characters of the password such as # / ? are written as %23 %2F %3F"
            ) from None
        self._client: Any = client
        try:
            # A cluster answers commands for keys of other nodes by an error.
            if client.info("cluster").get("cluster_enabled"):
                self._client = redis.RedisCluster.from_url(url, socket_timeout=_SOCKET_TIMEOUT_S)
        finally:
            if self._client is not client:
                client.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def keys(self, start: str, pattern: str) -> list[str]:
        """Return the keys that begin with ``start`` and go on as ``pattern`` says, sorted."""
        return sorted(set(map(as_text, self._matching(start, pattern))))

    def texts(self, start: str) -> Iterator[bytes]:
        """Yield the values of the strings whose keys begin with ``start``, in pages."""
        keys = self._matching(start, "*")
        while page := list(itertools.islice(keys, PAGE)):
            pipeline = self._client.pipeline(transaction=False)
            for key in page:
                pipeline.get(key)
            found = pipeline.execute(raise_on_error=False)
            yield from (value for value in found if isinstance(value, bytes))

    def _matching(self, start: str, pattern: str) -> Iterator[bytes]:
        escaped = "".join(f"\\{char}" if char in "*?[]\\^" else char for char in start)
        found: Iterator[bytes] = self._client.scan_iter(match=escaped + pattern, count=PAGE)
        return found

    def now_ms(self) -> int:
        """Return the time of the server in Unix milliseconds."""
        # Each node of a cluster answers TIME, so redis-py wants to know which one to ask.
        only = {"target_nodes": "random"} if isinstance(self._client, redis.RedisCluster) else {}
        seconds, micros = self._client.execute_command("TIME", **only)
        return int(seconds) * 1000 + int(micros) // 1000

    def members(self, key: str) -> list[str]:
        """Return the members of a set, sorted."""
        return sorted(map(as_text, self._client.smembers(key)))

    def list_from_tail(self, key: str) -> Iterator[bytes]:
        """Yield the entries of a list, the last one first: the order in which workers take them."""
        end = -1
        while page := self._client.lrange(key, end - PAGE + 1, end):
            yield from reversed(page)
            if len(page) < PAGE:
                return
            end -= PAGE

    def scores(self, key: str) -> Iterator[tuple[bytes, float]]:
        """Yield the members of a sorted set with their scores, by score."""
        for start in itertools.count(0, PAGE):
            page = self._client.zrange(key, start, start + PAGE - 1, withscores=True)
            yield from page
            if len(page) < PAGE:
                return

    def hash_values(self, key: str) -> Iterator[tuple[str, bytes]]:
        """Yield the fields of a hash with their values."""
        for name, value in self._client.hscan_iter(key, count=PAGE):
            yield as_text(name), value

    def size(self, kind: str, key: str) -> int:
        """Return the number of entries of a key; ``kind`` is list, set, zset or hash."""
        command = {"list": "LLEN", "set": "SCARD", "zset": "ZCARD", "hash": "HLEN"}[kind]
        return int(self._client.execute_command(command, key))

    def exists(self, key: str) -> bool:
        """Return whether the key exists."""
        return bool(self._client.exists(key))

    def hashes(self, keys: Iterable[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yield each key with its hash, which is empty if the key is no hash or does not exist."""
        for page in _pages(keys):
            pipeline = self._client.pipeline(transaction=False)
            for key in page:
                pipeline.hgetall(key)
            for key, found in zip(page, pipeline.execute(raise_on_error=False), strict=True):
                fields = found if isinstance(found, dict) else {}
                yield key, {as_text(name): value for name, value in fields.items()}


def _pages(keys: Iterable[str]) -> Iterator[Sequence[str]]:
    iterator = iter(keys)
    while page := list(itertools.islice(iterator, PAGE)):
        yield page
