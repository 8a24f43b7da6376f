"""Parsers for environment variables of the server; ``core.config.parsers`` has the common ones."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from ojs_cluster.core.config.parsers import integer, words
from ojs_cluster.redis.url import parse_redis_url

AUTO_WORKERS_MAX = 16
"""Maximum number of API processes that ``auto`` stands for."""


def api_key(text: str) -> str:
    """Accept visible ASCII characters without spaces, which an Authorization header can carry."""
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("an API key of visible ASCII characters without spaces")
    return text


def api_keys(text: str) -> tuple[str, ...]:
    """Accept comma separated API keys."""
    return tuple(api_key(word) for word in words(text))


def workers(text: str) -> int:
    """Accept a number of processes, or ``auto`` for one process per usable CPU."""
    if text.lower() == "auto":
        return min(usable_cpus(), AUTO_WORKERS_MAX)
    try:
        value: int = integer(minimum=1, maximum=256)(text)
    except ValueError:
        raise ValueError("a whole number from 1 to 256, or auto") from None
    return value


def usable_cpus(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return the number of CPUs that this process may use, at least 1.

    It is the smaller of the CPU affinity and the CPU quota of the container.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text().split()
        # Rounded up, so that half a CPU counts as one.
        count = min(count, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no such file outside of cgroups; the quota "max" means no limit
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
    """Accept an http or https URL with a host; ``host:port`` becomes ``http://host:port``.

    The URL must not contain a password, because it may appear in logs and tables.
    """
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError for an invalid port
        if parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc:
            return url
    except ValueError:
        pass
    raise ValueError("a URL such as http://localhost:4318, without user and password")


def redis_url(text: str) -> str:
    """Accept a URL that the Redis client accepts; the value is the text itself."""
    try:
        parse_redis_url(text)
    except ValueError as problem:
        raise ValueError(
            "redis://[user:password@]host:port[,host:port ...][/db], or rediss:// for TLS "
            f"({problem})"
        ) from None
    return text
