"""Users of single sign-on: each has the scopes of the roles that the groups of the user have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

from ojs_cluster.core.access.scopes import PRESETS, Principal, Scope
from ojs_cluster.core.config.parsers import words
from ojs_cluster.core.errors import PermissionDenied

EVERY_GROUP: Final = "*"
"""Stands for all users in the roles of groups."""
ROLES: Final = ("viewer", "operator", "admin")
VOUCHED_S: Final = 300
"""How long an open event stream of a user lasts without a new request, in seconds. Each request
finds the user again; a stream does not, so it would outlive the session."""
_MAX_ROLES: Final = 100
_MAX_NAME: Final = 200  # characters
_MAX_GROUPS: Final = 1000


def group_roles(text: str) -> dict[str, str]:
    """Accept roles of groups, such as ``ops=operator,*=viewer``; ``*`` stands for all users."""
    found: dict[str, str] = {}
    for word in words(text):
        group, _, role = (part.strip() for part in word.rpartition("="))
        if not group or role not in ROLES or group in found:
            found.clear()
            break
        found[group] = role
    if not 0 < len(found) <= _MAX_ROLES:
        raise ValueError(f"group=role, separated by commas; roles are {', '.join(ROLES)}")
    return found


def is_user_name(text: str) -> bool:
    """Return whether a text can be the name of a user in pages, logs and the audit."""
    return 0 < len(text) <= _MAX_NAME and text.isprintable() and text == text.strip()


def roles_of(groups: Iterable[str], roles: Mapping[str, str]) -> frozenset[str]:
    """Return the roles of a user.

    Args:
        groups: the groups of the user; those after the first 1000 are ignored.
        roles: the role of each group.
    """
    named = (*islice(groups, _MAX_GROUPS), EVERY_GROUP)
    return frozenset(roles[name] for name in named if name in roles)


def principal_of(user: str, roles: Iterable[str], expires_at_s: float) -> Principal:
    """Return the principal of a user, with the scopes of all roles together.

    Args:
        user: the name of the user.
        roles: the roles of the user.
        expires_at_s: Unix time in seconds at which the principal expires.

    Raises:
        PermissionDenied: no role allows to see the dashboard.
    """
    name = f"user:{user}"
    scopes: frozenset[Scope] = frozenset().union(*(PRESETS[role] for role in roles))
    if Scope.ADMIN_READ not in scopes:
        raise PermissionDenied(
            f"the user '{user}' is in no group that may use the dashboard",
            required_scope=Scope.ADMIN_READ.value,
            principal=name,
        )
    return Principal(name, scopes, expires_at_s=expires_at_s, is_vouched=True)
