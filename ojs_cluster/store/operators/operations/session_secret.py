"""The secret that signs the sessions of the dashboard, shared by all API processes."""

from __future__ import annotations

import secrets
from typing import Any, Final

from ojs_cluster.store.context import Store

_BYTES: Final = 32


async def session_secret(store: Store) -> bytes:
    """Return the secret; create it if there is none. Deleting its key ends all sessions.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    created = secrets.token_bytes(_BYTES)
    found: Any = await store.run_meta("session_secret", [store.keys.meta.ui_secret], [created])
    return bytes(found)
