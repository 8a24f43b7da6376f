"""Script calls with keys that are packed once and sent many times.

A plain fetch has eleven keys, and the next fetch of the same worker has the same ones. To pack them
takes a twentieth of the whole request's CPU time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

from ojs_cluster.redis.connection import Arg, pack
from ojs_cluster.redis.script import Script


class PackedKeys(tuple[bytes, ...]):
    """KEYS of a script, also in their packed form.

    Attributes:
        packed: the number of keys and each key, as bulk strings of the Redis protocol.
    """

    packed: bytes

    def __new__(cls, keys: Iterable[bytes]) -> Self:
        """Pack the keys once, for every call that sends them."""
        made = super().__new__(cls, keys)
        number = b"%d" % len(made)
        made.packed = b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in (number, *made)])
        return made


def pack_script_call(script: Script, keys: PackedKeys, args: Sequence[Arg]) -> bytes:
    """Return the packed EVALSHA command of ``script``. ``args`` must not be empty."""
    packed = pack(tuple(args))
    begin = b"*%d\r\n" % (3 + len(keys) + len(args))
    return b"%b%b%b%b" % (begin, script.packed_head, keys.packed, packed[packed.index(b"\n") + 1 :])
