"""Texts of environment variables to values: one small parser per kind.

A parser is a function from text to value that raises ValueError with what is *accepted*, so that
an operator reads "OJS_PORT=80a: a whole number from 1 to 65535" and needs no manual.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ojs_cluster.core.access.client_address import Network, parse_network
from ojs_cluster.redis.url import parse_redis_url

T = TypeVar("T")
Parser = Callable[[str], Any]

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    # Go stops at hours; retention is more readable in days.
    "d": 86_400_000_000_000,
}
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|μs|ms|s|m|h|d)")
_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}
AUTO_WORKERS_MAX = 16
_MOST_NETWORKS = 100


def go_duration_ns(text: str) -> int:
    """Parse Go's duration format: `30s`, `1m30s`, `500ms`, `1.5h`; and `7d`. Returns ns.

    Raises:
        ValueError: anything else, a sign included (no setting has a negative time).
    """
    if text == "0":
        return 0
    parts = _DURATION.findall(text)
    if not parts or "".join(parts) != text:
        raise ValueError("a duration such as 30s, 1m30s or 500ms")
    total = 0.0
    for part in parts:
        unit = part.lstrip("0123456789.")
        total += float(part[: -len(unit)]) * _UNITS_NS[unit]
    return round(total)


def seconds(*, least: float, most: float) -> Parser:
    """Accept a duration between two numbers of seconds; the value is a float in seconds."""

    def parse(text: str) -> float:
        value = go_duration_ns(text) / 1e9
        if not least <= value <= most:
            raise ValueError(f"a duration from {least:g}s to {most:g}s such as 30s or 1m30s")
        return value

    return parse


def milliseconds(*, least: int, most: int) -> Parser:
    """Accept a duration between two numbers of milliseconds; the value is a whole number of ms."""

    def parse(text: str) -> int:
        value = go_duration_ns(text) // 1_000_000
        if not least <= value <= most:
            raise ValueError(f"a duration from {least}ms to {most // 1000}s such as 90s, 24h or 7d")
        return value

    return parse


def integer(*, least: int, most: int) -> Parser:
    """Accept a whole number between two bounds."""

    def parse(text: str) -> int:
        # int() also takes "1_000", " 5" and other alphabets' digits: an operator means none.
        if not re.fullmatch(r"-?[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(text)

    return parse


def boolean(text: str) -> bool:
    """Accept true/false, 1/0, yes/no, on/off in any case."""
    lowered = text.lower()
    if lowered not in _TRUE | _FALSE:
        raise ValueError("true or false")
    return lowered in _TRUE


def one_of(*choices: str) -> Parser:
    """Accept one of these words, in any case; the value is the word as written here."""

    def parse(text: str) -> str:
        for choice in choices:
            if text.lower() == choice.lower():
                return choice
        raise ValueError("one of " + ", ".join(choices))

    return parse


def words(text: str) -> tuple[str, ...]:
    """Accept comma separated words; spaces around them and empty ones are dropped."""
    return tuple(word for word in (piece.strip() for piece in text.split(",")) if word)


def networks(text: str) -> tuple[Network, ...]:
    """Accept comma separated addresses and CIDR blocks."""
    try:
        found = tuple(parse_network(word) for word in words(text))
    except ValueError:
        found = ()
    if not 0 < len(found) <= _MOST_NETWORKS:
        raise ValueError(
            f"at most {_MOST_NETWORKS} addresses or networks such as 10.0.0.0/8, 192.0.2.7 or "
            "fd00::/8, none of which contains every address"
        )
    return found


def api_key(text: str) -> str:
    """Accept what can travel in an Authorization header."""
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("a key of visible ASCII characters without spaces")
    return text


def api_keys(text: str) -> tuple[str, ...]:
    """Accept comma separated keys."""
    return tuple(api_key(word) for word in words(text))


def workers(text: str) -> int:
    """Accept a number of processes, or `auto` for as many as there are usable CPUs."""
    if text.lower() == "auto":
        return min(usable_cpus(), AUTO_WORKERS_MAX)
    try:
        value: int = integer(least=1, most=256)(text)
    except ValueError:
        raise ValueError("a whole number from 1 to 256, or auto") from None
    return value


def usable_cpus(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Count the CPUs this process may use: its affinity, bounded by the container's CPU quota."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text().split()
        # "max" is no limit; half a CPU still needs one process.
        count = min(count, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(count, 1)


def host(text: str) -> str:
    """Accept an IP address or a name; brackets around an IPv6 address are dropped."""
    bare = text.removeprefix("[").removesuffix("]")
    if not re.fullmatch(r"[0-9A-Za-z_.:%-]+", bare):
        raise ValueError("an IP address or host name, such as 0.0.0.0, :: or localhost")
    return bare


def readable_file(text: str) -> str:
    """Accept the path of a file that this process can read."""
    if not Path(text).is_file() or not os.access(text, os.R_OK):
        raise ValueError("the path of a readable file")
    return text


def http_url(text: str) -> str:
    """Accept an http or https URL with a host (`host:port` alone is taken as http).

    It may appear in logs and tables, so it holds no password.
    """
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is no port
        if parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc:
            return url
    except ValueError:
        pass
    raise ValueError("a URL such as http://localhost:4318, without user and password")


def redis_url(text: str) -> str:
    """Accept what the Redis client accepts; the text itself is kept."""
    try:
        parse_redis_url(text)
    except ValueError as problem:
        raise ValueError(
            "redis://[user:password@]host:port[,host:port ...][/db], or rediss:// for TLS "
            f"({problem})"
        ) from None
    return text


def non_empty(text: str) -> str:
    """Accept any text."""
    return text
