"""Access control with a few API keys."""

from __future__ import annotations

from collections.abc import Iterable

from ojs_cluster.core.access.scopes import Keyring, principals_from_variables
from ojs_cluster.http.access.keys_and_scopes import AccessControl


def accepts(keys: Iterable[str], *, allow_insecure: bool = False) -> AccessControl:
    """Return access control that accepts these secrets as API keys with all scopes."""
    return AccessControl(
        Keyring(principals_from_variables("", keys), {}), allow_insecure=allow_insecure
    )
