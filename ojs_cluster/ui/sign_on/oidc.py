"""Single sign-on by OpenID Connect: authorization code flow with PKCE.

``begin`` sends the browser to the provider. The provider sends it back with a code. ``prove``
checks that the same browser began the login, and ``finish`` exchanges the code for an ID token. The
groups in the token give the user roles, and the user gets a session: a signed cookie, as with an
API key (docs/adr/054).
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import trio

from ojs_cluster.core.access.scopes import Principal
from ojs_cluster.ui.languages.translate import later
from ojs_cluster.ui.sign_on import attempts
from ojs_cluster.ui.sign_on.failure import SignOnFailed, refused, unusable
from ojs_cluster.ui.sign_on.id_token import verified_claims
from ojs_cluster.ui.sign_on.oidc_settings import OidcSettings
from ojs_cluster.ui.sign_on.provider import Provider, error_code
from ojs_cluster.ui.sign_on.signed_text import sign, signed_content
from ojs_cluster.ui.user_roles import VOUCHED_S, is_user_name, principal_of, roles_of

_MAX_CODE: Final = 2048  # characters
_MAX_AT_ONCE: Final = 8
"""Maximum number of logins of one process that wait for the provider at the same time."""
_MAX_WAITING: Final = 50
"""Maximum number of further logins of one process that wait for their turn."""
_PATIENCE_S: Final = 25.0
"""Maximum time of all requests of a login to the provider, in seconds."""


class Begun(NamedTuple):
    """A login that has begun.

    Attributes:
        location: the address of the provider to which the browser goes.
        cookie: the value of the cookie that the browser has to bring back.
    """

    location: str
    cookie: str


class SignedOn(NamedTuple):
    """A login that has succeeded.

    Attributes:
        principal: the user.
        session: the value of the cookie of the session.
        following: the page to which the login leads.
    """

    principal: Principal
    session: str
    following: str


class OpenIdConnect:
    """Logins by OpenID Connect in one process."""

    def __init__(self, settings: OidcSettings) -> None:
        self._settings = settings
        self._provider = Provider(settings)
        self._limiter = trio.CapacityLimiter(_MAX_AT_ONCE)
        given = [
            *(settings.issuer, settings.client_id, settings.client_secret),
            *(settings.user_claim, settings.groups_claim, sorted(settings.roles.items())),
        ]
        self._fingerprint = sha256(json.dumps(given).encode()).digest()
        self.is_secure = settings.redirect_url.startswith("https://")
        """Whether browsers use TLS, so that cookies must be sent over TLS only."""
        self.session_s = int(settings.session_s)
        """How long a session lasts, in seconds."""

    async def begin(self, secret: bytes, following: str, now: float) -> Begun:
        """Begin a login.

        Args:
            secret: the secret that all processes share.
            following: the page to which the login leads.
            now: Unix time in seconds.

        Raises:
            SignOnFailed: the provider does not answer, or its answer cannot be used.
        """
        endpoint = (await self._provider.endpoints()).authorization
        attempt, cookie = attempts.begin(self._key(secret, b"login"), following, now)
        asked = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._settings.redirect_url,
            "scope": self._settings.scopes,
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        joint = "&" if "?" in endpoint else "?"
        return Begun(f"{endpoint}{joint}{urlencode(asked)}", cookie)

    def prove(
        self, secret: bytes, cookie: str, query: Mapping[str, str], now: float
    ) -> attempts.Attempt:
        """Return the login that this browser began and for which the provider has sent it back.

        Any page can make a browser request the address of the way back. Such a request has no
        valid state, so a failure here proves nothing about the user.

        Args:
            secret: the secret that all processes share.
            cookie: the value of the cookie that began the login; empty for none.
            query: the parameters that the browser has brought.
            now: Unix time in seconds.

        Raises:
            SignOnFailed: this browser began no such login.
        """
        attempt = attempts.find(self._key(secret, b"login"), cookie, now)
        state = query.get("state", "").encode(errors="replace")
        if attempt is None or not hmac.compare_digest(state, attempt.state.encode()):
            raise SignOnFailed(
                later(
                    "This login did not begin in this browser at this address, or it took more "
                    "than ten minutes. Log in again."
                ),
                "the cookie or the state does not belong to a login of this browser",
            )
        return attempt

    async def finish(
        self, secret: bytes, attempt: attempts.Attempt, query: Mapping[str, str], now: float
    ) -> SignedOn:
        """End a login that ``prove`` has returned.

        Args:
            secret: the secret that all processes share.
            attempt: the login.
            query: the parameters that the browser has brought.
            now: Unix time in seconds.

        Raises:
            SignOnFailed: the provider does not confirm the login (status 401), or cannot say (503).
            PermissionDenied: no group of the user has a role.
        """
        if query.get("iss", self._settings.issuer) != self._settings.issuer:
            raise refused("the response names another issuer")
        if "error" in query:
            raise refused(f"the provider reports an error: {error_code(query['error'])}")
        code = query.get("code", "")
        if not (0 < len(code) <= _MAX_CODE and code.isascii() and code.isprintable()):
            raise refused("the response has no code")
        claims = await self._claims(code, attempt, now)
        user = self._user_of(claims)
        roles = roles_of(_texts(claims.get(self._settings.groups_claim)), self._settings.roles)
        ends_at = int(now) + self.session_s
        principal = principal_of(user, roles, min(ends_at, now + VOUCHED_S))
        content = f"{ends_at} {','.join(sorted(roles))} {user}".encode()
        session = sign(self._key(secret, b"session"), content)
        return SignedOn(principal, session, attempt.following)

    def find(self, secret: bytes, cookie: str, now: float) -> Principal | None:
        """Return the user of a session; None if it has ended or the cookie is not ours.

        Args:
            secret: the secret that all processes share.
            cookie: the value of the cookie.
            now: Unix time in seconds.
        """
        content = signed_content(self._key(secret, b"session"), cookie)
        if content is None:
            return None
        ends_at, roles, user = content.decode().split(" ", 2)
        expires_at_s = min(int(ends_at), now + VOUCHED_S)
        return None if now >= int(ends_at) else principal_of(user, roles.split(","), expires_at_s)

    async def _claims(self, code: str, attempt: attempts.Attempt, now: float) -> dict[str, Any]:
        if self._limiter.statistics().tasks_waiting >= _MAX_WAITING:
            raise unusable("too many other logins wait for the provider")
        try:
            with trio.fail_after(_PATIENCE_S):
                async with self._limiter:
                    token = await self._provider.redeem(code, attempt.verifier)
                    keys = self._provider.keys
                    return await verified_claims(token, keys, self._settings, attempt.nonce, now)
        except trio.TooSlowError:
            raise unusable("the provider did not answer in time") from None

    def _user_of(self, claims: Mapping[str, Any]) -> str:
        claim = self._settings.user_claim
        user = claims.get(claim)
        if not isinstance(user, str) or not is_user_name(user):
            raise refused(f"the ID token has no claim {claim} that can name a user")
        # Some providers send a text instead of a boolean.
        if claim == "email" and claims.get("email_verified", True) not in (True, "true"):
            raise refused("the provider has not verified the address of the user")
        return user

    def _key(self, secret: bytes, purpose: bytes) -> bytes:
        """Return the key that signs cookies of one kind.

        It needs the secret of this server at the provider, so a copy of Redis is not enough to
        forge a session. A change of the settings that decide who gets in ends all sessions.
        """
        label = b"ojs dashboard openid connect " + purpose
        return hmac.digest(secret, label + self._fingerprint, sha256)


def _texts(claim: object) -> list[str]:
    """Return the groups in a claim: a list of texts, or one text."""
    found = claim if isinstance(claim, list) else [claim]
    return [each for each in found if isinstance(each, str)]
