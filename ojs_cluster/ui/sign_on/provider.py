"""Requests to the OpenID provider: its configuration, its keys, and the exchange of a code.

The provider is the operator's choice, so its address may be private, unlike that of a webhook. But
its responses are checked as if they came from anybody: no redirect is followed, each response has a
deadline and a maximum size, and every endpoint must use TLS unless it is on this machine.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

import orjson
import trio

from ojs_cluster.outgoing.exchange import FAILURES, exchange, reason_of
from ojs_cluster.outgoing.resolver import Resolve, Resolver
from ojs_cluster.outgoing.url import HttpUrl
from ojs_cluster.ui.sign_on.failure import refused, unusable
from ojs_cluster.ui.sign_on.kept import Kept
from ojs_cluster.ui.sign_on.oidc_settings import OidcSettings, protected_url

_TIMEOUT_S: Final = 10.0
"""Maximum time of one request, in seconds."""
_MAX_BODY: Final = 256 * 1024
"""Maximum size of a response in bytes."""
_SEARCH_PAUSE_S: Final = 60.0
"""Minimum time in seconds between two requests for keys because of an unknown key."""
_MAX_KEYS: Final = 100

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What the provider says about itself (OpenID Connect Discovery 1.0).

    Attributes:
        authorization: where the user logs in; the URL as the provider wrote it.
        token: where a code is exchanged.
        keys: where the keys are that sign ID tokens.
        secret_in_body: whether the secret is sent in the body, not in a header.
    """

    authorization: str
    token: HttpUrl
    keys: HttpUrl
    secret_in_body: bool


class Provider:
    """The OpenID provider, as one process knows it.

    Args:
        settings: the settings.
        resolve: looks up names; None for the resolver of the machine.
    """

    def __init__(self, settings: OidcSettings, resolve: Resolve | None = None) -> None:
        self._settings = settings
        self._resolve = resolve or Resolver()
        self._endpoints = Kept(self._discover)
        self.keys = SigningKeys(self._fetch_keys)

    async def endpoints(self) -> Endpoints:
        """Return the endpoints of the provider.

        Raises:
            SignOnFailed: the provider does not answer, or its answer cannot be used.
        """
        return await self._endpoints.get()

    async def redeem(self, code: str, verifier: str) -> str:
        """Exchange a code for an ID token, which is not verified yet.

        Args:
            code: the code that the browser has brought.
            verifier: proves that this server began the login (RFC 7636).

        Raises:
            SignOnFailed: the provider refuses the code, or its answer cannot be used.
        """
        settings, endpoints = self._settings, await self.endpoints()
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": settings.redirect_url,
            "code_verifier": verifier,
            "client_id": settings.client_id,
        }
        headers = [("Content-Type", "application/x-www-form-urlencoded")]
        if endpoints.secret_in_body:
            fields["client_secret"] = settings.client_secret
        else:
            headers.append(("Authorization", _basic(settings.client_id, settings.client_secret)))
        status, body = await self._request(
            "POST", endpoints.token, headers, urlencode(fields).encode()
        )
        if status in (400, 401, 403):
            raise refused(f"the token endpoint refuses the code or the client: {_error_of(body)}")
        if status != 200:
            raise unusable(f"the token endpoint answered {status}")
        token = _object(body, "token endpoint").get("id_token")
        if not isinstance(token, str):
            raise unusable("the token endpoint returned no ID token")
        return token

    async def _discover(self) -> Endpoints:
        issuer = self._settings.issuer
        url = protected_url(issuer.rstrip("/") + "/.well-known/openid-configuration")
        found = await self._get(url, "configuration")
        if found.get("issuer") != issuer:
            raise unusable("the configuration of the provider names another issuer")
        try:
            authorization = str(found["authorization_endpoint"])
            names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
            first, token, keys = (protected_url(str(found[name])) for name in names)
        except KeyError as missing:
            raise unusable(f"the configuration of the provider lacks {missing}") from None
        except ValueError as problem:
            raise unusable(f"an endpoint of the provider {problem}") from None
        if url.secure and not (first.secure and token.secure and keys.secure):
            raise unusable("an endpoint of the provider has no TLS")
        if "#" in authorization:
            raise unusable("the authorization endpoint has a fragment")
        methods = found.get("token_endpoint_auth_methods_supported")
        in_body = isinstance(methods, list) and "client_secret_basic" not in methods
        return Endpoints(authorization, token, keys, in_body)

    async def _fetch_keys(self) -> list[Mapping[str, Any]]:
        found = (await self._get((await self.endpoints()).keys, "keys")).get("keys")
        if not isinstance(found, list):
            raise unusable("the keys of the provider are no list")
        return [key for key in found[:_MAX_KEYS] if isinstance(key, dict)]

    async def _get(self, url: HttpUrl, what: str) -> dict[str, Any]:
        status, body = await self._request("GET", url)
        if status != 200:
            raise unusable(f"the request for the {what} of the provider was answered {status}")
        return _object(body, what)

    async def _request(
        self, method: str, url: HttpUrl, headers: Headers = (), body: bytes = b""
    ) -> tuple[int, bytes]:
        given = [("Accept", "application/json"), *headers]
        try:
            with trio.fail_after(_TIMEOUT_S):
                addresses = list(dict.fromkeys(await self._resolve(url.host, url.port)))
                head, found = await exchange(
                    url, addresses, method, given, body, max_body=_MAX_BODY + 1
                )
        except trio.TooSlowError:
            raise unusable("the provider did not answer in time") from None
        except FAILURES as failure:
            raise unusable(f"the provider cannot be reached: {reason_of(failure)}") from None
        if len(found) > _MAX_BODY:
            raise unusable("the response of the provider is too large")
        return head.status_code, found


class SigningKeys:
    """The keys with which the provider signs ID tokens, as JSON Web Keys (RFC 7517).

    Args:
        fetch: requests the keys.
    """

    def __init__(self, fetch: Callable[[], Awaitable[list[Mapping[str, Any]]]]) -> None:
        self._kept = Kept(fetch)
        self._searched_at = -inf

    async def find(self, key_id: str | None) -> Mapping[str, Any]:
        """Return a key. An unknown one causes a request, because the provider may have a new key.

        Args:
            key_id: the ``kid`` of the token; None if it has none and the provider has one key.

        Raises:
            SignOnFailed: there is no such key, or the keys cannot be requested.
        """
        fetches, now = self._kept.fetches, trio.current_time()
        found = _find(await self._kept.get(), key_id)
        is_old = self._kept.fetches == fetches
        if found is None and is_old and now - self._searched_at >= _SEARCH_PAUSE_S:
            found = _find(await self._kept.renew(), key_id)
            self._searched_at = now
        if found is None:
            raise refused("the ID token is signed with a key that the provider does not list")
        return found


def _find(keys: list[Mapping[str, Any]], key_id: str | None) -> Mapping[str, Any] | None:
    usable = [key for key in keys if key.get("use", "sig") == "sig"]
    if key_id is None:
        return usable[0] if len(usable) == 1 else None
    return next((key for key in usable if key.get("kid") == key_id), None)


def _basic(client_id: str, secret: str) -> str:
    """Return the header of HTTP Basic (RFC 6749 2.3.1: both parts are form-encoded first)."""
    pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return f"Basic {b64encode(pair.encode()).decode()}"


def _object(body: bytes, what: str) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise unusable(f"the {what} of the provider is no JSON object")
    return found


def _error_of(body: bytes) -> str:
    """Return the error code in a response of the token endpoint (RFC 6749 5.2)."""
    try:
        return error_code(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "without a code"


def error_code(found: object) -> str:
    """Return an error code of the provider if it has the form of one, so that it may be logged."""
    is_code = isinstance(found, str) and len(found) <= 64 and found.replace("_", "").isalnum()
    return str(found) if is_code and str(found).isascii() else "unknown code"
