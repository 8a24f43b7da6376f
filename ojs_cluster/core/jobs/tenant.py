"""The tenant of a job: the member ``tenant_id`` of its meta (spec: ojs-multi-tenancy 5)."""

from __future__ import annotations

import re
from typing import Final

from ojs_cluster.core.errors import InvalidRequest, PayloadTooLarge
from ojs_cluster.core.raw_json import object_members, show, string

MAX_TENANT_LENGTH: Final = 128
"""Maximum number of characters of a tenant. The spec has no maximum."""
_is_tenant: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._:\-]{0,127}").fullmatch
_FORM: Final = (
    f"must be 1 to {MAX_TENANT_LENGTH} of a-z, A-Z, 0-9, '.', '_', ':' and '-', and start with a "
    "letter or digit"
)


def is_tenant(text: str) -> bool:
    """Return whether a text may be the id of a tenant."""
    return _is_tenant(text) is not None


def check_tenant(text: str, *, field: str) -> str:
    """Return the id of a tenant.

    Raises:
        InvalidRequest: the text has a wrong form.
    """
    if not is_tenant(text):
        raise InvalidRequest(f"{_FORM}; {show(text)} is not a tenant", field=field)
    return text


def tenant_of(meta: bytes) -> str:
    """Return the tenant that a job's meta names, '' for none.

    Meta belongs to the clients, and those that do not use tenants may have any value in this
    member. So a value that is not a valid tenant names none; in particular it does not stop stored
    cron jobs and workflows of an earlier version.

    Args:
        meta: the job's meta, a checked JSON object.
    """
    # A name may be spelled with escapes. Any other meta is not parsed.
    if b"tenant_id" not in meta and b"\\u" not in meta:
        return ""
    piece = (object_members(meta) or {}).get("tenant_id")
    text = None if piece is None else string(piece)
    return text if text is not None and is_tenant(text) else ""


def add_tenant(meta: bytes, tenant: str, max_bytes: int) -> bytes:
    """Return a job's meta with the tenant of the request.

    Args:
        meta: the job's meta, a checked JSON object.
        tenant: the tenant of the request.
        max_bytes: maximum size of the result.

    Raises:
        InvalidRequest: the meta names another tenant.
        PayloadTooLarge: the result is larger than ``max_bytes``.
    """
    members = object_members(meta) or {}
    if "tenant_id" in members:
        if string(members["tenant_id"]) != tenant:
            raise InvalidRequest(
                f"the request is for the tenant '{tenant}', and this job names another one",
                field="meta.tenant_id",
            )
        return meta
    added = b'"tenant_id":"%b"}' % tenant.encode()
    result = b"{" + added if not members else b"%b,%b" % (meta.rstrip()[:-1], added)
    if len(result) > max_bytes:
        raise PayloadTooLarge(
            f"meta with its tenant_id has at most {max_bytes} bytes, not {len(result)}",
            field="meta",
            limit=max_bytes,
        )
    return result
