"""Verify ID tokens (OpenID Connect Core 1.0, 3.1.3.7) with PyJWT."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, Final

import jwt

from ojs_cluster.ui.sign_on.failure import refused
from ojs_cluster.ui.sign_on.oidc_settings import OidcSettings
from ojs_cluster.ui.sign_on.provider import SigningKeys

ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Algorithms with a private key of the provider. Without ``none``, and without HMAC: a public key,
or a secret that several programs know, would then be enough to make a token."""
_LEEWAY_S: Final = 60
"""By how much the clocks of the provider and of Redis may differ, in seconds."""
_MAX_TIME: Final = 1e11
"""Unix time in seconds after which no time of a token is: NaN and infinity are none, either."""
_MAX_TOKEN: Final = 64 * 1024  # characters
_PUBLIC: Final = ("kty", "use", "alg", "kid", "n", "e", "crv", "x", "y")
"""Members of a public key. Its private members would be checked, which can take minutes."""
_MAX_MEMBER: Final = 2800
"""Maximum length of a member in characters: a number of 16 384 bits has 2731."""


async def verified_claims(
    token: str, keys: SigningKeys, settings: OidcSettings, nonce: str, now: float
) -> dict[str, Any]:
    """Return the claims of an ID token for this server and this login.

    Args:
        token: the ID token.
        keys: the keys of the provider.
        settings: the issuer, and the name of this server there.
        nonce: the random text of this login.
        now: Unix time in seconds.

    Raises:
        SignOnFailed: the token is not valid.
    """
    if len(token) > _MAX_TOKEN or not token.isascii():
        raise refused("the ID token is too large, or no ASCII text")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        raise refused("the ID token is not a signed JSON Web Token") from None
    algorithm = header.get("alg")
    if algorithm not in ALGORITHMS:
        raise refused("the ID token is signed with an algorithm that is not accepted")
    key = await keys.find(header.get("kid"))
    if key.get("alg", algorithm) != algorithm:
        raise refused("the ID token is signed with another algorithm than its key is for")
    public = {name: key[name] for name in _PUBLIC if name in key}
    if any(not isinstance(each, str) or len(each) > _MAX_MEMBER for each in public.values()):
        raise refused("the key of the ID token has a member that is too long, or no text")
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            jwt.PyJWK(public, algorithm),
            algorithms=ALGORITHMS,
            audience=settings.client_id,
            issuer=settings.issuer,
            options={
                # PyJWT would compare times with the wall clock of this process.
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
                "require": ["iss", "sub", "aud", "exp", "iat", "nonce"],
                "enforce_minimum_key_length": True,
            },
        )
    except Exception as error:
        # Malformed keys cause exceptions of other libraries, too. A message may quote the token or
        # the key; the name of the class says enough.
        raise refused(f"the ID token is not valid: {type(error).__name__}") from None
    _check_times(claims, now)
    audience = claims["aud"]
    is_for_others_too = isinstance(audience, list) and len(audience) > 1
    if is_for_others_too and "azp" not in claims:
        raise refused("the ID token is for several clients and does not say which one asked")
    if claims.get("azp", settings.client_id) != settings.client_id:
        raise refused("another client has asked for the ID token")
    if not hmac.compare_digest(str(claims["nonce"]).encode(errors="replace"), nonce.encode()):
        raise refused("the ID token belongs to another login")
    return claims


def _check_times(claims: Mapping[str, Any], now: float) -> None:
    """Check that a token holds now.

    Raises:
        SignOnFailed: it has expired, is of the future, or one of its times is no number.
    """
    times = {name: claims[name] for name in ("exp", "iat", "nbf") if name in claims}
    if not all(type(each) in (int, float) and 0 <= each < _MAX_TIME for each in times.values()):
        raise refused("a time of the ID token is no number")
    if times["exp"] <= now - _LEEWAY_S:
        raise refused("the ID token has expired")
    if max(times["iat"], times.get("nbf", 0)) > now + _LEEWAY_S:
        raise refused("the ID token is of the future")
