"""Find the key of a failed command whose type is wrong, to name it in the error."""

from __future__ import annotations

import logging
from typing import Any, Final

import hiredis

from ojs_cluster.keys import kind_of_key, type_of_key
from ojs_cluster.redis.connection import NodeConnection, pack
from ojs_cluster.redis.errors import MalformedKey, RedisReplyError

log = logging.getLogger("ojs.redis")

_MAX_KEYS: Final = 100
"""Number of keys of a command that are compared, so that the search is short."""
_TYPE_NAMES: Final = {b"zset": "sorted set"}


async def explain_wrong_type(
    error: RedisReplyError, payload: bytes, connection: NodeConnection | None
) -> MalformedKey:
    """Return the error that names the kind of key whose type is wrong.

    Only keys that the command declares are compared. The log has the name of the key, but not the
    error: clients may not be allowed to see names of queues, workers and tenants.

    Args:
        error: Redis's answer.
        payload: the packed command.
        connection: a connection to the node.
    """
    keys = _keys_of(payload)[:_MAX_KEYS]
    for key in keys:
        found = None if connection is None else await connection.execute(pack(("TYPE", key)))
        expected = type_of_key(key)
        if isinstance(found, bytes) and found not in (expected, b"none"):
            kind = kind_of_key(key).decode(errors="replace")
            fault = f"is a {_name(found)}, not a {_name(expected)}"
            log.error("Redis's data is malformed: the key %r %s", key, fault)
            return MalformedKey(error, f"a key '{kind}' {fault} (docs/keys.md)", kind)
    log.error("Redis's data is malformed, one of these keys or of those they name: %r", keys)
    return MalformedKey(error, "a key has a wrong type (docs/keys.md)", None)


def _keys_of(payload: bytes) -> list[bytes]:
    """Return the keys that a packed command declares."""
    reader = hiredis.Reader()
    reader.feed(payload)
    command: Any = reader.gets()
    is_script = command[0] in (b"EVALSHA", b"EVAL")
    keys = command[3 : 3 + int(command[2])] if is_script else command[1:2]
    return [key for key in keys if kind_of_key(key)]


def _name(kind: bytes) -> str:
    return _TYPE_NAMES.get(kind) or kind.decode(errors="replace")
