"""Script calls whose keys are packed once and sent many times.

A fetch has eleven keys, and the next fetch of the same worker has the same keys. Packing them each
time would take a twentieth of the CPU time of a request.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from ojs_cluster.redis.connection import Arg, pack
from ojs_cluster.redis.script import Script


class PackedKeys(tuple[bytes, ...]):
    """KEYS of a script, also in their packed form.

    Attributes:
        packed: the number of keys, followed by the keys, as bulk strings of the Redis protocol.
    """

    packed: bytes

    def __new__(cls, keys: Iterable[bytes]) -> Self:
        """Pack the keys once, for every call that sends them."""
        packed_keys = super().__new__(cls, keys)
        words = (b"%d" % len(packed_keys), *packed_keys)
        packed_keys.packed = b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
        return packed_keys


def pack_script_call(script: Script, keys: PackedKeys, args: Sequence[Arg]) -> bytes:
    """Return the packed EVALSHA command of ``script``. ``args`` must not be empty."""
    packed = pack(tuple(args))
    words = packed[packed.index(b"\n") + 1 :]  # without the line that counts the words
    # The command has the words EVALSHA, the hash and the number of keys before the keys.
    count_line = b"*%d\r\n" % (3 + len(keys) + len(args))
    return b"%b%b%b%b" % (count_line, script.packed_head, keys.packed, words)


def pack_call(script: Script, keys: Sequence[bytes], args: Sequence[Arg] = ()) -> bytes:
    """Return the packed EVALSHA command of ``script``."""
    return pack((b"EVALSHA", script.sha, len(keys), *keys, *args))


class PackedReads(NamedTuple):
    """Packed commands that only read keys of one slot.

    Attributes:
        slot: the hash slot of all keys.
        payload: the packed commands.
        commands: number of the commands.
    """

    slot: int
    payload: bytes
    commands: int = 1
