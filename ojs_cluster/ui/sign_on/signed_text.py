"""Texts for cookies: base64 that needs no quotes, and contents with a signature."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Final

_MAX_SIGNED: Final = 4096  # characters: browsers keep no longer cookie


def encode(raw: bytes) -> str:
    """Return bytes as a text."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Return the bytes of a text that ``encode`` has returned.

    Raises:
        ValueError: ``encode`` cannot have returned it.
    """
    return urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))


def sign(key: bytes, content: bytes) -> str:
    """Return a text that holds the content and its signature.

    Args:
        key: a key that signs contents of one kind only.
        content: the content, which its holder can read.
    """
    return f"{encode(content)}.{encode(hmac.digest(key, content, sha256))}"


def signed_content(key: bytes, text: str) -> bytes | None:
    """Return the content of a text that ``sign`` has returned for the same key; else None."""
    if len(text) > _MAX_SIGNED:
        return None
    first, _, second = text.partition(".")
    try:
        content, signature = decode(first), decode(second)
    except ValueError:
        return None
    is_ours = hmac.compare_digest(signature, hmac.digest(key, content, sha256))
    return content if is_ours else None
