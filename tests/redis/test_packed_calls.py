"""Calls whose keys were packed before are the same bytes as others."""

from __future__ import annotations

import pytest

from ojs_cluster.redis.connection import pack
from ojs_cluster.redis.packed_calls import PackedKeys, pack_script_call
from ojs_cluster.redis.script import Script


@pytest.mark.parametrize("number", [1, 9, 10, 23, 100])
def test_a_call_with_packed_keys_is_the_same_bytes(number: int) -> None:
    script = Script("any", b"return 1")
    keys = PackedKeys(b"key-\r\n-%d" % at for at in range(number))
    args = (1, "größer", b"\x00\r\n", "", 2.5)

    assert pack_script_call(script, keys, args) == pack(
        (b"EVALSHA", script.sha, number, *keys, *args)
    )
