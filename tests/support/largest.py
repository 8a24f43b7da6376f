"""A client that runs scripts only on the largest jobs, and counts what it sends and receives.

The sizes are the largest that the default settings allow. So every script that a test runs handles
the largest jobs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from ojs_cluster.core.payload_limits import DEFAULT_LIMITS
from ojs_cluster.redis.client import Client
from ojs_cluster.redis.script import Script
from ojs_cluster.store.engine.jobs.history_entries import MAX_BYTES as HISTORY_BYTES
from ojs_cluster.store.features.progress.progress import MAX_BYTES
from ojs_cluster.store.ground.settings import StoreSettings

_ERRORS = StoreSettings().errors_kept
_RESULT_BYTES = StoreSettings().result_max_bytes
_HISTORY = StoreSettings().history_kept
_ENTRY = '{"k":"failed","at":1,"w":"%s"}'
_ENTRY %= "x" * (HISTORY_BYTES // _HISTORY - len(_ENTRY) - 2)
_FAILURE_BYTES = DEFAULT_LIMITS.failure_bytes
_ENVELOPE_BYTES = DEFAULT_LIMITS.envelope_bytes - 200
LARGEST_RESULT = b'"%b"' % (b"r" * (_RESULT_BYTES - 2))

_GROW = f"""
local function text(bytes) return '"' .. string.rep('x', bytes - 2) .. '"' end
local function grow(key)
    local state = redis.call('HGET', key, 's')
    local kept = state == 'completed' and 'rs' or 'e'
    if not state or redis.call('HSTRLEN', key, kept) >= {_ENVELOPE_BYTES - 100} then return end
    redis.call('HSET', key, 'e', '"args":[' .. text({_ENVELOPE_BYTES} - 9) .. ']',
        'pr', '[' .. text({_RESULT_BYTES} - 2) .. ']', 'hn', {_ERRORS},
        'pd', '{{"data":' .. text({MAX_BYTES} - 9) .. '}}',
        'hy', '0 {_HISTORY}\\n' .. string.rep('{_ENTRY}\\n', {_HISTORY}))
    for n = 0, {_ERRORS - 1} do
        redis.call('HSET', key, 'h' .. n, '1,1700000000000,{{"code":"large","message":'
            .. text({_FAILURE_BYTES - 40}))
    end
    if kept == 'rs' then redis.call('HSET', key, 'rs', text({_RESULT_BYTES})) end
end
if KEYS[1] then return grow(KEYS[1]) end
local page = {{'0'}}
repeat
    page = redis.call('SCAN', page[1], 'MATCH', ARGV[1], 'COUNT', 10000)
    for _, key in ipairs(page[2]) do grow(key) end
until page[1] == '0'
"""


def make_large(db: Any, key: bytes) -> None:
    """Grow the job in ``key`` to the largest size that the default settings allow."""
    db.eval(_GROW, 1, key)


async def _run_at_once(run: Callable[[], Awaitable[Any]], _name: str) -> Any:
    return await run()


class LargestJobs:
    """Runs scripts one at a time, after all jobs of the shard have grown to the largest size.

    Args:
        client: the client that runs the scripts.
        db: redis-py's client of the same standalone server.
        grows: whether jobs grow.
        around: wraps the run of a script; receives the run and the name of the script.
    """

    def __init__(
        self,
        client: Client,
        db: Any,
        *,
        grows: bool = True,
        around: Callable[[Callable[[], Awaitable[Any]], str], Awaitable[Any]] = _run_at_once,
    ) -> None:
        self._client = client
        self._db = db
        self._grows = grows
        self._around = around
        self._one_at_a_time = trio.Lock()
        self.sent: defaultdict[str, int] = defaultdict(int)
        """Per script, most bytes of arguments."""
        self.returned: defaultdict[str, int] = defaultdict(int)
        """Per script, most bytes of a reply."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def script(
        self, slot: int, script: Script, keys: Sequence[bytes], args: Sequence[Any], **options: Any
    ) -> Any:
        async def run() -> Any:
            return await self._client.script(slot, script, keys, args, **options)

        async with self._one_at_a_time:
            if self._grows:
                self._db.eval(_GROW, 0, keys[0][: keys[0].index(b"}:") + 2] + b"j:*")
            reply = await self._around(run, script.name)
        for counts, value in ((self.sent, args), (self.returned, reply)):
            counts[script.name] = max(counts[script.name], size_of(value))
        return reply


def size_of(value: Any) -> int:
    """Return the bytes of the strings in a reply or a list of arguments."""
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    return 0
