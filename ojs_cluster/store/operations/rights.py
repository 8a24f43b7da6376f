"""Whether the Redis user may do what this server does, asked once when a process starts.

A right that is missing would else be met by the first job that needs it. INFO, ROLE and CLIENT
SETNAME are not asked for: what they are for is left out where they are refused.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.acl_errors import is_about_rights, line, rule_of
from ojs_cluster.redis.durability import Durability
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.fanout import over_shards

if TYPE_CHECKING:
    from ojs_cluster.keys import Shard
    from ojs_cluster.redis.settings import Address
    from ojs_cluster.store.runtime import Runtime

_PATIENCE_S = 2.0
IN_SCRIPTS = (
    *("DEL", "EXISTS", "GET", "HDEL", "HEXISTS", "HGET", "HGETALL", "HINCRBY", "HKEYS", "HLEN"),
    "HMGET",
    *(
        "HSET",
        "HSETNX",
        "HSTRLEN",
        "INCR",
        "LPUSH",
        "LRANGE",
        "LSET",
        "LTRIM",
        "PEXPIRE",
        "PTTL",
        "SET",
    ),
    *("SPUBLISH", "TIME"),
    *("UNLINK", "XADD", "XREVRANGE", "XTRIM"),
    *("ZADD", "ZCARD", "ZCOUNT", "ZRANGE", "ZRANGEBYSCORE", "ZREM"),
    *("ZREMRANGEBYRANK", "ZREMRANGEBYSCORE", "ZREVRANGE", "ZSCORE"),
)
"""Commands that transitions run."""
ALONE = ("SETRANGE", "XLEN", "XRANGE", "ZMSCORE", "ZRANGEBYLEX")
"""Commands that are only sent by themselves; Redis lets scripts run them all the same."""


class MissingRights(Exception):
    """The user lacks rights; the message names them and what to add."""


async def check(store: Runtime) -> None:
    """Ask every master that answers.

    Raises:
        MissingRights: the user lacks a right somewhere.
    """
    masters: dict[Address, Shard] = {}
    for shard in store.keys:
        address = store.redis.topology.owner(shard.slot)
        if address is not None:
            masters.setdefault(address, shard)
    found: list[str] = []

    async def ask(item: tuple[Address, Shard]) -> None:
        address, shard = item
        if not store.redis.answers(shard.slot):
            return
        # A master that is away keeps no process from serving the rest.
        with trio.move_on_after(_PATIENCE_S), suppress(BackendUnavailable):
            refused = await _refused(store, address, shard)
            if refused:
                found.append(line(store.redis.user, str(address), refused))

    await over_shards(list(masters.items()), ask)
    if found:
        raise MissingRights("; ".join(found))


async def _refused(store: Runtime, address: Address, shard: Shard) -> list[str]:
    """The rules that are missing, in order and each once."""
    rules: list[str] = []
    try:
        flat = await store.run(shard, "rights", [shard.wal_probe], [*IN_SCRIPTS, *ALONE])
        names = iter(flat)
        rules += [
            rule_of(text.decode(), name.decode()) for name, text in zip(names, names, strict=True)
        ]
        await _subscribe(store, shard)
        await store.redis.call_at(address, "PING")
        if store.redis.durability is Durability.REPLICA:
            await store.redis.call_at(address, "WAIT", 0, 1)
        elif store.redis.durability is Durability.FSYNC:
            await store.redis.call_at(address, "WAITAOF", 0, 0, 1)
    except RedisReplyError as error:
        if not is_about_rights(error):
            raise
        rules.append(rule_of(f"{error.code} {error.message}"))
    return list(dict.fromkeys(rule for rule in rules if rule))


async def _subscribe(store: Runtime, shard: Shard) -> None:
    await store.redis.subscribe(shard.wake_channel, shard.slot, _ignore, _no_gap)
    await store.redis.unsubscribe(shard.wake_channel)


def _ignore(_message: bytes) -> None:
    """Nobody listens yet."""


def _no_gap() -> None:
    """Nobody listens yet."""
