"""One login by OpenID Connect, which a cookie binds to the browser that began it.

The cookie holds a random seed and a signature. The three texts that protect a login are made of the
seed with a key of the server: ``state`` against logins that another site began, ``nonce`` against
ID tokens of another login, and the verifier of PKCE (RFC 7636) against stolen codes. So neither the
cookie nor the address of the provider contains the verifier, and no process remembers a login.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from ojs_cluster.ui.sign_on.signed_text import encode, sign, signed_content
from ojs_cluster.ui.visit import local_target

ATTEMPT_S: Final = 600
"""How long a user may take to log in at the provider, in seconds."""
_MAX_FOLLOWING: Final = 2000  # characters: the cookie must not have more than 4096


@dataclass(frozen=True, slots=True)
class Attempt:
    """A login that has begun.

    Attributes:
        state: the provider returns it with the code.
        nonce: the provider puts it into the ID token.
        verifier: the server shows it when it exchanges the code.
        following: the page to which the login leads.
    """

    state: str
    nonce: str
    verifier: str
    following: str

    @property
    def challenge(self) -> str:
        """The hash of the verifier (RFC 7636 4.2, S256)."""
        return encode(sha256(self.verifier.encode()).digest())


def begin(key: bytes, following: str, now: float) -> tuple[Attempt, str]:
    """Begin a login, and return it with the value of its cookie.

    Args:
        key: the key for logins.
        following: the page to which the login leads.
        now: Unix time in seconds.
    """
    seed = urlsafe_b64encode(secrets.token_bytes(24))
    following = local_target(following)
    if len(following) > _MAX_FOLLOWING:
        following = ""
    content = b"%d %s %s" % (int(now) + ATTEMPT_S, seed, following.encode())
    return _attempt(key, seed, following), sign(key, content)


def find(key: bytes, cookie: str, now: float) -> Attempt | None:
    """Return the login of a cookie; None if it took too long or the cookie is not ours.

    Args:
        key: the key for logins.
        cookie: the value of the cookie.
        now: Unix time in seconds.
    """
    content = signed_content(key, cookie)
    if content is None:
        return None
    ends_at, seed, following = content.split(b" ", 2)
    return None if now >= int(ends_at) else _attempt(key, seed, following.decode())


def _attempt(key: bytes, seed: bytes, following: str) -> Attempt:
    def text(purpose: bytes) -> str:
        return encode(hmac.digest(key, purpose + b" " + seed, sha256))

    return Attempt(text(b"state"), text(b"nonce"), text(b"verifier"), following)
