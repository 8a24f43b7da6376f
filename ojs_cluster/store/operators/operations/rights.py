"""Check at start whether the Redis user may run all commands of this server.

Without this check a missing right would show only later, when a job needs the command. INFO, ROLE
and CLIENT SETNAME are not checked, because the server works without them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.acl_errors import describe_missing_rules, is_acl_error, missing_rule
from ojs_cluster.redis.durability import Durability
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.ground.fanout import run_concurrently

if TYPE_CHECKING:
    from ojs_cluster.keys import Shard
    from ojs_cluster.redis.settings import Address
    from ojs_cluster.store.ground.runtime import Runtime

_PATIENCE_S = 2.0
"""Longest time in seconds to wait for one master."""
SCRIPT_COMMANDS = (
    "DEL",
    "EXISTS",
    "GET",
    "HDEL",
    "HEXISTS",
    "HGET",
    "HGETALL",
    "HINCRBY",
    "HKEYS",
    "HLEN",
    "HMGET",
    "HSCAN",
    "HSET",
    "HSETNX",
    "HSTRLEN",
    "INCR",
    "LPUSH",
    "LRANGE",
    "LSET",
    "LTRIM",
    "PEXPIRE",
    "PEXPIREAT",
    "PTTL",
    "SET",
    "SPUBLISH",
    "TIME",
    "TYPE",
    "UNLINK",
    "XADD",
    "XREVRANGE",
    "XTRIM",
    "ZADD",
    "ZCARD",
    "ZCOUNT",
    "ZINCRBY",
    "ZMSCORE",
    "ZRANGE",
    "ZRANGEBYSCORE",
    "ZREM",
    "ZREMRANGEBYRANK",
    "ZREMRANGEBYSCORE",
    "ZREVRANGE",
    "ZSCORE",
)
"""Commands that scripts run."""
DIRECT_COMMANDS = ("SETRANGE", "XLEN", "XRANGE", "ZRANGEBYLEX")
"""Commands that the server sends directly. Redis allows them in scripts, so ``rights.lua`` tries
them, too."""


class MissingRights(Exception):
    """The Redis user lacks rights; the message names the ACL rules to add."""


async def check(store: Runtime) -> None:
    """Check the rights on every master that answers.

    Raises:
        MissingRights: the user lacks a right on at least one master.
    """
    masters: dict[Address, Shard] = {}
    for shard in store.keys:
        address = store.redis.topology.owner(shard.slot)
        if address is not None:
            masters.setdefault(address, shard)
    problems: list[str] = []

    async def check_master(item: tuple[Address, Shard]) -> None:
        address, shard = item
        if not store.redis.is_responsive(shard.slot):
            return
        # An unreachable master must not stop a process that can serve the other shards.
        with trio.move_on_after(_PATIENCE_S), suppress(BackendUnavailable):
            missing = await _missing_rules(store, address, shard)
            if missing:
                problems.append(describe_missing_rules(store.redis.user, str(address), missing))

    await run_concurrently(list(masters.items()), check_master)
    if problems:
        raise MissingRights("; ".join(problems))


async def _missing_rules(store: Runtime, address: Address, shard: Shard) -> list[str]:
    """Return the ACL rules that the user lacks on one master, without repetition."""
    rules: list[str] = []
    try:
        flat = await store.run(
            shard, "rights", [shard.wal_probe], [*SCRIPT_COMMANDS, *DIRECT_COMMANDS]
        )
        names = iter(flat)
        rules += [
            missing_rule(text.decode(), name.decode())
            for name, text in zip(names, names, strict=True)
        ]
        await _subscribe(store, shard)
        await store.redis.call_node(address, "PING")
        if store.redis.durability is Durability.REPLICA:
            await store.redis.call_node(address, "WAIT", 0, 1)
        elif store.redis.durability is Durability.FSYNC:
            await store.redis.call_node(address, "WAITAOF", 0, 0, 1)
    except RedisReplyError as error:
        if not is_acl_error(error):
            raise
        rules.append(missing_rule(f"{error.code} {error.message}"))
    return list(dict.fromkeys(rule for rule in rules if rule))


async def _subscribe(store: Runtime, shard: Shard) -> None:
    await store.redis.subscribe(shard.wake_channel, shard.slot, _ignore, _no_gap)
    await store.redis.unsubscribe(shard.wake_channel)


def _ignore(_message: bytes) -> None:
    """Drop a message: the subscription only tests the right."""


def _no_gap() -> None:
    """Ignore that messages may have been lost: the subscription only tests the right."""
