"""Saved searches: searches for jobs that the users of the dashboard share.

All of them are one hash under the meta tag, by their names. A search stays until it is deleted.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import msgspec

from ojs_cluster.core.errors import Conflict, InvalidRequest, NotFound
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.runtime import Arg

log = logging.getLogger("ojs.store")

MAX_SEARCHES: Final = 100
"""Maximum number of saved searches."""
MAX_NAME: Final = 60
"""Maximum length of a name in characters."""


class SavedSearch(msgspec.Struct, frozen=True):
    """A saved search, as it is stored in JSON.

    Attributes:
        name: its name.
        query: the search.
        saved_ms: when it was saved, in Unix milliseconds.
        principal: name of the API key that has saved it.
    """

    name: str
    query: str
    saved_ms: int
    principal: str = ""


_decoder = msgspec.json.Decoder(SavedSearch)


async def read_searches(store: Store) -> list[SavedSearch]:
    """Return the saved searches in the order of their names.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    pairs: Any = await store.redis.call(meta.slot, "HGETALL", meta.searches, idempotent=True)
    found = []
    for text in pairs[1::2]:
        try:
            found.append(_decoder.decode(text))
        except msgspec.DecodeError as error:
            log.warning("a saved search is damaged: %s", error)
    return sorted(found, key=lambda search: (search.name.casefold(), search.name))


async def save_search(store: Store, search: SavedSearch, *, replace: bool = True) -> bool:
    """Store a search, or replace the one of the same name; return whether it is new.

    Args:
        store: the store.
        search: the search.
        replace: whether to replace another search of the same name.

    Raises:
        Conflict: there is a search of this name, and it is not to be replaced.
        InvalidRequest: there are too many searches.
        BackendUnavailable: Redis did not answer in time.
    """
    reply = await _write(store, search.name, msgspec.json.encode(search), replace=replace)
    if reply == b"known":
        raise Conflict(f"a search is saved as '{search.name}' already")
    if reply == b"full":
        raise InvalidRequest(
            f"at most {MAX_SEARCHES} searches may be saved: delete one", field="name"
        )
    return reply == b"new"


async def delete_search(store: Store, name: str) -> None:
    """Delete a search.

    Raises:
        NotFound: there is no such search.
        BackendUnavailable: Redis did not answer in time.
    """
    if await _write(store, name, b"") == b"missing":
        raise NotFound("saved search", name)


async def _write(store: Store, name: str, record: bytes, *, replace: bool = True) -> bytes:
    args: list[Arg] = [name, record, MAX_SEARCHES, int(replace)]
    reply: bytes = await store.run_meta("search_write", [store.keys.meta.searches], args)
    return reply
