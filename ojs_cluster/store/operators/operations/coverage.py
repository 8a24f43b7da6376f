"""Check at start whether the loss of one master would stop all shards."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.errors import RedisReplyError

if TYPE_CHECKING:
    from ojs_cluster.redis.settings import Address
    from ojs_cluster.store.ground.runtime import Runtime

log = logging.getLogger("ojs.store")

_SETTING: Final = "cluster-require-full-coverage"
_PATIENCE_S: Final = 2.0
"""Longest time in seconds to wait for the replies of all masters."""


async def check(store: Runtime) -> None:
    """Log a warning when masters of a cluster refuse all commands while any slot is not served.

    The function never raises. It skips unreachable masters, and masters that refuse CONFIG GET.
    """
    if not store.redis.topology.clustered:
        return
    strict: list[str] = []

    async def read_setting(address: Address) -> None:
        with suppress(BackendUnavailable, RedisReplyError):
            reply: Any = await store.redis.call_node(address, "CONFIG", "GET", _SETTING)
            if reply[1:] == [b"yes"]:
                strict.append(str(address))

    with trio.move_on_after(_PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for address in store.redis.topology.masters:
                nursery.start_soon(read_setting, address)
    if strict:
        log.warning(
            "%s is yes at %s: the loss of one master stops all shards; run CONFIG SET %s no on "
            "every node, and write it into the configuration",
            _SETTING,
            ", ".join(sorted(strict)),
            _SETTING,
        )
