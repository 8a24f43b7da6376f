"""Users whom a trusted proxy has authenticated, as oauth2-proxy does with single sign-on.

The proxy names the user in a header, and the user's groups in another one. A role of the settings
gives each group its scopes. Only pages of the dashboard use this: the API never does. A header
counts only if the peer of the connection is in ``OJS_TRUSTED_PROXIES``. A header that occurs twice
is refused, because a proxy may have added its own to one of the client (docs/adr/045).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.core.access.scopes import Principal
from ojs_cluster.core.errors import Unauthenticated
from ojs_cluster.http.pages import RawHeaders
from ojs_cluster.ui.settings import UiSettings
from ojs_cluster.ui.user_roles import (
    EVERY_GROUP,
    VOUCHED_S,
    is_user_name,
    principal_of,
    roles_of,
)


class ProxyUsers:
    """Finds the user that a trusted proxy names."""

    def __init__(self, settings: UiSettings, proxies: TrustedProxies) -> None:
        self._user = settings.proxy_user.lower().encode()
        self._groups = settings.proxy_groups.lower().encode()
        self._roles = settings.proxy_roles
        self._proxies = proxies

    def find(self, peer: str, headers: RawHeaders, now: float) -> Principal | None:
        """Return the user of a request, None if no trusted proxy names one.

        Args:
            peer: the address that the connection comes from.
            headers: the headers as they were received, repeated ones included.
        now: Unix time in seconds.

        Raises:
            Unauthenticated: a header of the proxy is repeated or malformed.
            PermissionDenied: no group of the user has a role.
        """
        if not self._user or not self._proxies.trusts(peer):
            return None
        received = [(name.lower(), value) for name, value in headers]
        name = _only(received, self._user).strip()
        if not name:
            return None
        # A comma may join two headers that another proxy has received.
        if not is_user_name(name) or "," in name:
            raise Unauthenticated("the proxy names no valid user")
        groups = _only(received, self._groups) if self._groups else ""
        names = (group.strip() for group in groups.split(","))
        return principal_of(name, roles_of(names, self._roles), now + VOUCHED_S)


def _only(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    """Return the value of a header, empty if there is none.

    Raises:
        Unauthenticated: the header is repeated, or its value is no UTF-8.
    """
    values = [value for found, value in headers if found == name]
    if len(values) > 1:
        raise Unauthenticated(f"the request has the header {name.decode()} more than once")
    try:
        return values[0].decode() if values else ""
    except UnicodeDecodeError:
        raise Unauthenticated(f"the header {name.decode()} is not UTF-8") from None


def contradictions(
    settings: UiSettings, proxies: Iterable[object], *, has_keys: bool
) -> Iterator[str]:
    """Yield a line for each combination of settings that would let the wrong people in, or nobody.

    Args:
        settings: the settings of the dashboard.
        proxies: the trusted proxies.
        has_keys: whether the server needs API keys.
    """
    name, roles = "OJS_UI_PROXY_USER", "OJS_UI_PROXY_ROLES"
    if not settings.proxy_user:
        if settings.proxy_groups or settings.proxy_roles:
            yield f"OJS_UI_PROXY_GROUPS and {roles}: only with {name}"
        return
    if not any(True for _ in proxies):
        yield f"{name}: only with OJS_TRUSTED_PROXIES, or anybody could send the header"
    if not has_keys:
        yield f"{name}: not with OJS_ALLOW_INSECURE_NO_AUTH, which lets everybody in without a name"
    if not settings.proxy_roles:
        yield f"{name}: only with {roles}, or no user could do anything"
    if settings.proxy_groups.lower() == settings.proxy_user.lower():
        yield f"{name} and OJS_UI_PROXY_GROUPS: two different headers"
    needs_groups = settings.proxy_roles.keys() - {EVERY_GROUP}
    if needs_groups and not settings.proxy_groups:
        yield f"{roles}: names of groups only with OJS_UI_PROXY_GROUPS; use *=viewer for all users"
