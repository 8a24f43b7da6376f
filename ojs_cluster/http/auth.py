"""Bearer keys."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from ojs_cluster.core.errors import Unauthenticated


def check_key(authorization: str | None, keys: Iterable[str]) -> None:
    """Accept the value of an Authorization header if its bearer token is one of ``keys``.

    Every key is compared, and each in constant time, so that neither a key's text nor which of
    several keys came close can be learnt from how long the answer takes.

    Raises Unauthenticated otherwise.
    """
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("this server needs an API key")
    given = token.strip().encode("utf-8", "surrogateescape")
    known = False
    for key in keys:
        known |= hmac.compare_digest(given, key.encode())
    if not known:
        raise Unauthenticated("the API key is not valid")
