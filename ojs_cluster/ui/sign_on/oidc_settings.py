"""The settings of single sign-on by OpenID Connect."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from ojs_cluster.core.config.parsers import seconds
from ojs_cluster.core.config.variable import variable
from ojs_cluster.outgoing.url import HttpUrl, parse_http_url
from ojs_cluster.ui.settings import UiSettings
from ojs_cluster.ui.user_roles import group_roles

CALLBACK: Final = "/ui/oidc/callback"
"""The end of the path to which the provider sends the browser back."""
_is_name: Final = re.compile(r"[!-~]{1,256}").fullmatch
_is_scopes: Final = re.compile(r"[!#-\[\]-~]{1,128}(?: [!#-\[\]-~]{1,128}){0,19}").fullmatch
_MAX_SECRET: Final = 4096  # bytes


def is_loopback(url: HttpUrl) -> bool:
    """Return whether a URL names this machine."""
    try:
        return url.host == "localhost" or ip_address(url.host).is_loopback
    except ValueError:
        return False


def protected_url(text: str) -> HttpUrl:
    """Return the parts of an https URL, or of an http URL of this machine.

    Raises:
        ValueError: any other text.
    """
    url = parse_http_url(text)
    if not url.secure and not is_loopback(url):
        raise ValueError("must begin with https://")
    return url


def _is_protected(text: str) -> bool:
    """Return whether a text is such a URL, without a query and a fragment."""
    try:
        protected_url(text)
    except ValueError:
        return False
    return "?" not in text and "#" not in text


def issuer(text: str) -> str:
    """Accept the issuer of a provider, exactly as its tokens name it."""
    if not _is_protected(text):
        raise ValueError("an https URL without a query, such as https://login.example.com")
    return text


def redirect_url(text: str) -> str:
    """Accept the address to which the provider sends the browser back."""
    if not _is_protected(text) or not text.endswith(CALLBACK):
        raise ValueError(f"an https URL such as https://jobs.example.com{CALLBACK}")
    return text


def visible(text: str) -> str:
    """Accept visible ASCII characters."""
    if not _is_name(text):
        raise ValueError("1 to 256 visible ASCII characters")
    return text


def client_secret(text: str) -> str:
    """Accept the secret that the provider has given to this client."""
    if not text.isprintable() or len(text) > _MAX_SECRET:
        raise ValueError(f"at most {_MAX_SECRET} printable characters")
    return text


def client_secret_of_file(text: str) -> str:
    """Accept the path of a file with the secret; the value is the secret."""
    try:
        with Path(text).open(encoding="utf-8") as file:
            found = file.read(_MAX_SECRET + 2).strip()
    except (OSError, ValueError):
        found = ""
    if not found:
        raise ValueError("the path of a readable file with the secret")
    return client_secret(found)


def scopes(text: str) -> str:
    """Accept scopes separated by spaces, ``openid`` among them."""
    if not _is_scopes(text) or "openid" not in text.split(" "):
        raise ValueError("scopes separated by spaces, with openid")
    return text


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """Settings of single sign-on by OpenID Connect; it is off without an issuer.

    Attributes:
        issuer: the issuer of the provider.
        client_id: the name of this server at the provider.
        secret_of_variable: the secret of this server at the provider.
        secret_of_file: the same, from a file.
        redirect_url: where the provider sends the browser back.
        scopes: the scopes of the request, separated by spaces.
        user_claim: the claim that names the user.
        groups_claim: the claim that lists the groups of the user.
        roles: the role of each group.
        session_s: how long a session lasts, in seconds.
    """

    issuer: str = variable(
        "OJS_UI_OIDC_ISSUER",
        issuer,
        "",
        "Issuer of the OpenID provider with which people log in to the dashboard, such as "
        "`https://login.example.com`; the server gets the rest from its "
        "`/.well-known/openid-configuration`.",
    )
    client_id: str = variable(
        "OJS_UI_OIDC_CLIENT_ID",
        visible,
        "",
        "Name of this server (`client_id`) at the OpenID provider.",
    )
    secret_of_variable: str = variable(
        "OJS_UI_OIDC_CLIENT_SECRET",
        client_secret,
        "",
        "Secret of this server (`client_secret`) at the OpenID provider.",
        secret=True,
    )
    secret_of_file: str = variable(
        "OJS_UI_OIDC_CLIENT_SECRET_FILE",
        client_secret_of_file,
        "",
        "File with that secret, read at the start, instead of OJS_UI_OIDC_CLIENT_SECRET.",
        secret=True,
    )
    redirect_url: str = variable(
        "OJS_UI_OIDC_REDIRECT_URL",
        redirect_url,
        "",
        "Address to which the provider sends the browser back, exactly as you have registered it "
        "there: the address of the dashboard and `oidc/callback`, such as "
        "`https://jobs.example.com/ui/oidc/callback`.",
    )
    scopes: str = variable(
        "OJS_UI_OIDC_SCOPES",
        scopes,
        "openid email profile",
        "Scopes that the server requests, separated by spaces. Some providers list groups only "
        "with `groups`.",
    )
    user_claim: str = variable(
        "OJS_UI_OIDC_USER_CLAIM",
        visible,
        "email",
        "Claim of the ID token that names the user in the audit. An address that the provider has "
        "not verified is refused.",
    )
    groups_claim: str = variable(
        "OJS_UI_OIDC_GROUPS_CLAIM",
        visible,
        "groups",
        "Claim of the ID token that lists the groups of the user.",
    )
    roles: Mapping[str, str] = variable(
        "OJS_UI_OIDC_ROLES",
        group_roles,
        "",
        "Roles of these groups, such as `ops=operator,*=viewer`: `viewer`, `operator` or `admin`. "
        "`*` stands for all users of the provider. Without a role a user sees nothing.",
        empty=MappingProxyType({}),
    )
    session_s: float = variable(
        "OJS_UI_OIDC_SESSION",
        seconds(minimum=60, maximum=86_400),
        "12h",
        "How long a session lasts after a login by OpenID Connect. A user who loses a group keeps "
        "the role until then.",
    )

    @property
    def client_secret(self) -> str:
        """The secret of this server at the provider."""
        return self.secret_of_variable or self.secret_of_file


def contradictions(oidc: OidcSettings, ui: UiSettings, *, has_keys: bool) -> Iterator[str]:
    """Yield a line for each combination of settings that cannot work.

    Args:
        oidc: the settings of OpenID Connect.
        ui: the settings of the dashboard.
        has_keys: whether the server needs API keys.
    """
    name = "OJS_UI_OIDC_ISSUER"
    needed = {
        "OJS_UI_OIDC_CLIENT_ID": oidc.client_id,
        "OJS_UI_OIDC_CLIENT_SECRET": oidc.client_secret,
        "OJS_UI_OIDC_REDIRECT_URL": oidc.redirect_url,
        "OJS_UI_OIDC_ROLES": oidc.roles,
    }
    if not oidc.issuer:
        if given := [each for each, value in needed.items() if value]:
            yield f"{', '.join(given)}: only with {name}"
        return
    if missing := [each for each, value in needed.items() if not value]:
        yield f"{name}: only with {', '.join(missing)}"
    if oidc.secret_of_variable and oidc.secret_of_file:
        yield "OJS_UI_OIDC_CLIENT_SECRET and OJS_UI_OIDC_CLIENT_SECRET_FILE: set one of them"
    if not has_keys:
        yield f"{name}: not with OJS_ALLOW_INSECURE_NO_AUTH, which lets everybody in without a name"
    if ui.base and oidc.redirect_url and urlsplit(oidc.redirect_url).path != ui.base + CALLBACK:
        yield f"OJS_UI_OIDC_REDIRECT_URL: its path must be {ui.base}{CALLBACK}, with OJS_UI_BASE"
    if find_spec("jwt") is None or find_spec("cryptography") is None:
        yield f"{name}: needs more packages: run pip install 'ojs-cluster[oidc]'"
