"""Parse the file of API keys (``OJS_API_KEYS_FILE``): TOML with one ``[[key]]`` table per API key.

The error has one line for every invalid value. A line never quotes a possible secret: for
``sha256`` and ``secret_env`` it only says what is expected, and of a syntax error it shows only the
position.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from ojs_cluster.core.access.scopes import (
    PRESETS,
    Keyring,
    Principal,
    QueuePatterns,
    Scope,
    digest,
    is_queue_pattern,
)
from ojs_cluster.core.jobs.tenant import is_tenant

MAX_KEYS: Final = 10_000
"""Maximum number of API keys in the file."""
MAX_BYTES: Final = 8 * 1024 * 1024
"""Maximum size of the file."""
_MAX_RATE: Final = 1_000_000
"""Maximum value of ``requests_per_second``."""
_MEMBERS: Final = frozenset(
    {
        "name",
        "sha256",
        "secret_env",
        "tls_subject",
        "preset",
        "scopes",
        "queues",
        "tenant",
        "expires_at",
        "requests_per_second",
    }
)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256: Final = re.compile(r"[0-9A-Fa-f]{64}")
_SECRET: Final = re.compile(r"[!-~]+")
_POSITION: Final = re.compile(r"\(at [^()]*\)$")


class KeyFileError(Exception):
    """The file is invalid; ``problems`` has one line for each wrong value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def parse_key_file(
    raw: bytes,
    environ: Mapping[str, str],
    known: Mapping[bytes, Principal],
    *,
    shortest_secret: int = 0,
) -> Keyring:
    """Return the API keys of the file together with the API keys in ``known``.

    Args:
        raw: the content of the file.
        environ: the environment that ``secret_env`` reads.
        known: principals from other sources, by the SHA-256 of their secret.
        shortest_secret: minimum number of characters of a secret from the environment.

    Raises:
        KeyFileError: the file is invalid; the error has all problems, not only the first.
    """
    tables = _parse_tables(raw)
    reader = _KeyTableReader(environ, known, shortest_secret)
    for number, table in enumerate(tables, 1):
        reader.add(number, table)
    if reader.problems:
        raise KeyFileError(reader.problems)
    return Keyring(reader.by_digest, reader.by_subject, frozenset(reader.secrets))


def _parse_tables(raw: bytes) -> list[Any]:
    if len(raw) > MAX_BYTES:
        raise KeyFileError([f"the file has more than {MAX_BYTES} bytes"])
    try:
        document = tomllib.loads(raw.decode())
    except UnicodeDecodeError:
        raise KeyFileError(["the file is not UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        found = _POSITION.search(str(error))
        position = found[0] if found else ""
        raise KeyFileError([f"the file is not TOML {position}".strip()]) from None
    except RecursionError:
        raise KeyFileError(["the file is nested too deeply"]) from None
    problems = [
        f"{name[:60]!r} is not known: use [[key]] tables" for name in document.keys() - {"key"}
    ]
    tables = document.get("key", [])
    if not isinstance(tables, list) or not 1 <= len(tables) <= MAX_KEYS:
        problems.append(f"the file must have 1 to {MAX_KEYS} [[key]] tables")
    if problems:
        raise KeyFileError(sorted(problems))
    return list(tables)


class _KeyTableReader:
    """Reads the tables one by one, and collects API keys and problems."""

    def __init__(
        self, environ: Mapping[str, str], known: Mapping[bytes, Principal], shortest_secret: int
    ) -> None:
        self.by_digest = dict(known)
        self.by_subject: dict[str, Principal] = {}
        self.problems: list[str] = []
        self.secrets: set[str] = set()
        self._environ = environ
        self._shortest_secret = shortest_secret
        self._names: set[str] = set()

    def add(self, number: int, table: Any) -> None:
        """Read one ``[[key]]`` table."""
        if not isinstance(table, dict):
            self.problems.append(f"key {number}: must be a [[key]] table")
            return
        name = table.get("name")
        valid = isinstance(name, str) and _NAME.fullmatch(name) is not None
        where = f"key {number} ({name!r})" if valid else f"key {number}"
        before = len(self.problems)
        self.problems += [f"{where}: {problem}" for problem in self._find_problems(table)]
        secret_digest, problem = self._digest(table)
        if problem:
            self.problems.append(f"{where}: {problem}")
        if len(self.problems) > before:
            return
        principal = _principal(table)
        self._names.add(principal.name)
        if secret_digest is not None:
            other = self.by_digest.setdefault(secret_digest, principal)
            if other is not principal:
                self.problems.append(f"{where}: has the same secret as {other.name!r}")
        subject = table.get("tls_subject")
        if subject is not None:
            other = self.by_subject.setdefault(subject, principal)
            if other is not principal:
                self.problems.append(f"{where}: has the same tls_subject as {other.name!r}")

    def _find_problems(self, table: Mapping[str, Any]) -> Iterator[str]:
        """Yield the problems of all members except the secret."""
        for unknown in sorted(table.keys() - _MEMBERS):
            yield f"{unknown[:60]!r} is not known; expected {', '.join(sorted(_MEMBERS))}"
        name = table.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            yield "name: expected 1 to 64 letters, digits, '.', '_' and '-'"
        elif name in self._names:
            yield "name: another key has the same name"
        elif name.startswith("OJS_API_KEY"):
            yield "name: names that start with OJS_API_KEY are those of keys from the environment"
        yield from _find_scope_problems(table)
        if "queues" in table:
            yield from _find_queue_problems(table["queues"])
        if "tenant" in table and not _is_tenant(table["tenant"]):
            yield "tenant: expected 1 to 128 letters, digits, '.', '_', ':' and '-'"
        if "expires_at" in table and _unix_time(table["expires_at"]) is None:
            yield "expires_at: expected a time with its zone, as 2027-01-31T00:00:00Z"
        if "requests_per_second" in table and not _is_rate(table["requests_per_second"]):
            yield f"requests_per_second: expected a number above 0, at most {_MAX_RATE}"
        subject = table.get("tls_subject", "CN=x")
        if not isinstance(subject, str) or "=" not in subject or len(subject) > 1000:
            yield "tls_subject: expected the subject of a certificate, as 'CN=ci,O=Example'"

    def _digest(self, table: Mapping[str, Any]) -> tuple[bytes | None, str]:
        """Return the SHA-256 of the API key's secret, and the problem of its members.

        Returns:
            None instead of the SHA-256 when the table names no valid secret; '' for no problem.
        """
        if "sha256" in table and "secret_env" in table:
            return None, "sha256, secret_env: set one of them"
        if "sha256" in table:
            text = table["sha256"]
            if not isinstance(text, str) or not _SHA256.fullmatch(text):
                return None, "sha256: expected the 64 hexadecimal digits of the secret's SHA-256"
            return bytes.fromhex(text), ""
        if "secret_env" in table:
            return self._digest_from_environment(table["secret_env"])
        if "tls_subject" in table:
            return None, ""
        return None, "sha256, secret_env or tls_subject is required"

    def _digest_from_environment(self, variable: Any) -> tuple[bytes | None, str]:
        if not isinstance(variable, str):
            return None, "secret_env: expected the name of an environment variable"
        secret = self._environ.get(variable, "").strip()
        if not secret:
            return None, "secret_env: no environment variable of this name is set"
        if not _SECRET.fullmatch(secret):
            return None, "secret_env: the secret must be visible ASCII characters without spaces"
        if len(secret) < self._shortest_secret:
            return None, f"secret_env: the secret has fewer than {self._shortest_secret} characters"
        self.secrets.add(secret)
        return digest(secret), ""


def _principal(table: Mapping[str, Any]) -> Principal:
    """Return the principal of a table without problems."""
    scopes = PRESETS.get(table.get("preset", ""), frozenset())
    queues = table.get("queues")
    return Principal(
        name=table["name"],
        scopes=scopes | {Scope(scope) for scope in table.get("scopes", ())},
        queues=None if queues is None else QueuePatterns(queues),
        expires_at_s=_unix_time(table["expires_at"]) if "expires_at" in table else None,
        requests_per_second=table.get("requests_per_second"),
        tenant=table.get("tenant"),
    )


def _find_scope_problems(table: Mapping[str, Any]) -> Iterator[str]:
    preset, scopes = table.get("preset"), table.get("scopes")
    if preset is None and scopes is None:
        yield "preset or scopes is required"
    if preset is not None and (not isinstance(preset, str) or preset not in PRESETS):
        yield f"preset: expected one of {', '.join(PRESETS)}, not {_shown(preset)}"
    if scopes is None:
        return
    if not isinstance(scopes, list) or not scopes:
        yield f"scopes: expected a list of {', '.join(Scope)}"
        return
    for scope in scopes:
        if not isinstance(scope, str) or scope not in list(Scope):
            yield f"scopes: expected {', '.join(Scope)}, not {_shown(scope)}"


def _find_queue_problems(queues: Any) -> Iterator[str]:
    if not isinstance(queues, list) or not queues:
        yield "queues: expected a list of queue names, in which * stands for any text"
        return
    for queue in queues:
        if not isinstance(queue, str) or not is_queue_pattern(queue):
            yield (
                "queues: expected a queue name of a-z, 0-9, '-' and '.', in which * stands for any "
                f"text, not {_shown(queue)}"
            )


def _is_tenant(value: Any) -> bool:
    return isinstance(value, str) and is_tenant(value)


def _unix_time(value: Any) -> float | None:
    """Return a time in seconds of Unix time, None if it is not a time with a zone."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        return None
    return value.timestamp()


def _is_rate(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and 0 < value <= _MAX_RATE


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
