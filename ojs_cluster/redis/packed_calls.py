"""Calls of scripts of which most of the bytes are the same each time.

A plain fetch has eleven keys, and the next one of the same worker has them again. Packing them is a
twentieth of the work on the whole request, so who calls often keeps its keys packed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

from ojs_cluster.redis.connection import Arg, pack
from ojs_cluster.redis.script import Script


class PackedKeys(tuple[bytes, ...]):
    """Keys of a script, and the same as they are sent.

    Attributes:
        packed: their number and they, each as a bulk string of the protocol.
    """

    packed: bytes

    def __new__(cls, keys: Iterable[bytes]) -> Self:
        made = super().__new__(cls, keys)
        number = b"%d" % len(made)
        made.packed = b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in (number, *made)])
        return made


def pack_call(script: Script, keys: PackedKeys, args: Sequence[Arg]) -> bytes:
    """Return the command that runs ``script`` by its hash. ``args`` are not empty."""
    packed = pack(tuple(args))
    begin = b"*%d\r\n" % (3 + len(keys) + len(args))
    return b"%b%b%b%b" % (begin, script.begin, keys.packed, packed[packed.index(b"\n") + 1 :])
