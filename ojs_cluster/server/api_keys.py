"""The API keys of a process: those of variables."""

from __future__ import annotations

from ojs_cluster.core.access import Keyring, named_after_variables
from ojs_cluster.http.auth import Access
from ojs_cluster.server.settings import AccessSettings


def access_of(settings: AccessSettings) -> Access:
    """Return the keys as configured.

    Raises:
        ValueError: there is neither a key nor leave to serve without one.
    """
    named = named_after_variables(settings.api_key, settings.api_keys)
    return Access(Keyring(named, {}), allow_insecure=settings.allow_insecure)
