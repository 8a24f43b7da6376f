"""Define API keys, their scopes, and the queues that they may access.

A ``Principal`` is the owner of an API key. A ``Keyring`` finds it by the SHA-256 of the token that
a client sends. So a lookup takes the same time for one API key and for thousands. This time tells
an attacker nothing: it depends on the hash, and the attacker cannot guess a hash digit by digit.

Scopes are those of ojs-admin-api 13.1. ``ojs:worker`` is separate from ``ojs:data:write``, so that
a producer cannot take jobs away from workers.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from types import MappingProxyType
from typing import Final

from ojs_cluster.core.jobs.options import is_queue


class Scope(StrEnum):
    """The scopes of API keys (spec: ojs-admin-api 13.1)."""

    DATA_READ = "ojs:data:read"
    DATA_WRITE = "ojs:data:write"
    WORKER = "ojs:worker"
    ADMIN_READ = "ojs:admin:read"
    ADMIN_WRITE = "ojs:admin:write"
    ADMIN_PURGE = "ojs:admin:purge"


ALL_SCOPES: Final = frozenset(Scope)
PRESETS: Final[Mapping[str, frozenset[Scope]]] = MappingProxyType(
    {
        "producer": frozenset({Scope.DATA_READ, Scope.DATA_WRITE}),
        "worker": frozenset({Scope.DATA_READ, Scope.WORKER}),
        "viewer": frozenset({Scope.DATA_READ, Scope.ADMIN_READ}),
        "operator": frozenset(
            {Scope.DATA_READ, Scope.DATA_WRITE, Scope.ADMIN_READ, Scope.ADMIN_WRITE}
        ),
        "admin": ALL_SCOPES,
    }
)


class QueuePatterns:
    """The queues that an API key may access.

    Each pattern is a queue name in which ``*`` stands for any text.
    """

    __slots__ = ("_exact", "_matches", "patterns")

    def __init__(self, patterns: Iterable[str]) -> None:
        """Compile the patterns; each must satisfy ``is_queue_pattern``."""
        self.patterns = tuple(patterns)
        self._exact = frozenset(p for p in self.patterns if "*" not in p)
        # fnmatch translates "*" to atomic groups, so a match takes linear time.
        globs = [fnmatch.translate(p) for p in self.patterns if "*" in p]
        self._matches = re.compile("|".join(globs) or r"(?!)").match

    def admits(self, queue: str) -> bool:
        """Return whether the API key may access this queue."""
        return queue in self._exact or self._matches(queue) is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QueuePatterns) and self.patterns == other.patterns

    def __hash__(self) -> int:
        return hash(self.patterns)

    def __repr__(self) -> str:
        return f"QueuePatterns({', '.join(self.patterns)})"


def is_queue_pattern(text: str) -> bool:
    """Return whether ``text`` is a queue name in which ``*`` may stand for any text."""
    # A letter instead of each "*" gives a name of the same length.
    return is_queue(text.replace("*", "a"))


@dataclass(frozen=True, slots=True)
class Principal:
    """The owner of an API key.

    Attributes:
        name: the name in audit entries and error messages.
        scopes: the scopes of the API key.
        queues: the queues that the API key may access; None for the whole cluster, which includes
            all queues.
        expires_at_s: Unix time in seconds when the API key expires; None for never.
        requests_per_second: maximum request rate; None for no maximum.
        tenant: the tenant whose jobs the API key may access; None for all.
        is_vouched: whether single sign-on has authenticated the user of a page, who has no API key.
    """

    name: str
    scopes: frozenset[Scope] = ALL_SCOPES
    queues: QueuePatterns | None = None
    expires_at_s: float | None = None
    requests_per_second: float | None = None
    is_vouched: bool = False
    tenant: str | None = None


_MAX_CHANGED: Final = 20
"""Maximum number of names of each kind that ``changed_names`` returns."""
ANONYMOUS: Final = Principal("anonymous")
"""The principal of all clients of a server without API keys."""


def digest(secret: str) -> bytes:
    """Return the SHA-256 of a secret, as a ``Keyring`` stores it."""
    return sha256(secret.encode("utf-8", "surrogateescape")).digest()


@dataclass(frozen=True, slots=True)
class Keyring:
    """All principals, by the SHA-256 of their secret and by the subject of their certificate.

    Attributes:
        by_digest: principals by the SHA-256 of their secret.
        by_subject: principals by the subject of their certificate.
        secrets: the secrets that are known as text, which logs mask.
    """

    by_digest: Mapping[bytes, Principal]
    by_subject: Mapping[str, Principal]
    secrets: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def is_empty(self) -> bool:
        """Whether there is no API key."""
        return not self.by_digest and not self.by_subject

    @property
    def principals(self) -> frozenset[str]:
        """The names of all principals."""
        found = (*self.by_digest.values(), *self.by_subject.values())
        return frozenset(principal.name for principal in found)

    def find(self, token: str) -> Principal | None:
        """Return the principal with the secret ``token``, None if there is none."""
        return self.by_digest.get(digest(token))


def changed_names(before: Keyring, after: Keyring) -> dict[str, list[str]]:
    """Return the names of API keys that were ``added``, ``removed`` or ``changed``.

    An API key has changed if its secret or another of its values has changed. At most
    ``_MAX_CHANGED`` names of each kind are returned.
    """
    old, new = _by_name(before), _by_name(after)
    changes = {
        "added": new.keys() - old.keys(),
        "removed": old.keys() - new.keys(),
        "changed": {name for name in old.keys() & new.keys() if old[name] != new[name]},
    }
    return {kind: sorted(names)[:_MAX_CHANGED] for kind, names in changes.items() if names}


def _by_name(keyring: Keyring) -> dict[str, set[tuple[bytes | str, Principal]]]:
    found: dict[str, set[tuple[bytes | str, Principal]]] = {}
    credentials: list[tuple[bytes | str, Principal]] = [*keyring.by_digest.items()]
    credentials += keyring.by_subject.items()
    for credential, principal in credentials:
        found.setdefault(principal.name, set()).add((credential, principal))
    return found


def principals_from_variables(api_key: str, api_keys: Iterable[str]) -> dict[bytes, Principal]:
    """Return the principals of ``OJS_API_KEY`` and ``OJS_API_KEYS``. They have all scopes."""
    named = {"OJS_API_KEY": api_key} if api_key else {}
    named |= {f"OJS_API_KEYS (key {number})": key for number, key in enumerate(api_keys, 1)}
    found: dict[bytes, Principal] = {}
    for name, secret in named.items():
        found.setdefault(digest(secret), Principal(name))
    return found
