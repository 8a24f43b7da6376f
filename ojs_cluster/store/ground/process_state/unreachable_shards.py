"""Remember unreachable shards, so that effects fail at once instead of waiting for a reply.

A request or a scheduler loop works on one shard and delivers effects (see ``outbox``) to others. An
unreachable shard must delay neither the request nor effects for healthy shards. So the first failed
call records the shard, and further calls fail at once until a pause is over.

Each process remembers this for itself. Only effects use it: a request that needs a shard waits for
it as long as the Redis client does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Final

import trio

from ojs_cluster.core.errors import BackendUnavailable, OutOfTime, WritesRefused

if TYPE_CHECKING:
    from ojs_cluster.redis import Arg, Client, Reply, Script

ANSWER_S: Final = 1.0
"""How long an effect waits for one reply, in seconds. The scheduler repeats the effect
with a longer time limit (``outbox.drain_blocked``)."""
PAUSE_S = 5.0
"""Time in seconds after a failed call during which further calls to the shard fail at once."""


class UnreachableShards:
    """The slots of shards that did not answer during the last ``PAUSE_S`` seconds.

    A *probe* is the attempt of one task to call an unreachable slot, while other tasks wait.
    """

    def __init__(self) -> None:
        self._until: dict[int, float] = {}
        self._probed: set[int] = set()

    def __contains__(self, slot: int) -> bool:
        until = self._until.get(slot)
        if until is None:
            return False
        if until > trio.current_time():
            return True
        del self._until[slot]
        return False

    def add(self, slot: int) -> None:
        """Record that a call to ``slot`` was not answered."""
        self._until[slot] = trio.current_time() + PAUSE_S

    def discard(self, slot: int) -> None:
        """Record that ``slot`` answers."""
        self._until.pop(slot, None)

    def begin_probe(self, slot: int) -> bool:
        """Begin a probe of ``slot``, which the caller ends with ``end_probe``.

        Returns:
            False when another probe of the slot runs, or when a call has failed during the last
            ``PAUSE_S`` seconds. The caller must not call the slot then.
        """
        if slot in self._probed or slot in self:
            return False
        self._probed.add(slot)
        return True

    def end_probe(self, slot: int) -> None:
        """Allow the next probe."""
        self._probed.discard(slot)


class EffectClient:
    """A Redis client for one effect. It remembers which slot did not answer.

    Args:
        client: the client that sends the calls.
        unreachable: the unreachable slots that this process knows. Calls to them fail at once.
        patient: whether to wait for replies as long as ``client`` does.
        probed: a slot that is called although it is recorded as unreachable; None for none.
    """

    def __init__(
        self,
        client: Client,
        unreachable: UnreachableShards,
        *,
        patient: bool,
        probed: int | None = None,
    ) -> None:
        self._client = client
        self._unreachable = unreachable
        self._patient = patient
        self._probed = probed
        self.failed_slot: int | None = None

    async def script(
        self,
        slot: int,
        script: Script,
        keys: Sequence[bytes],
        args: Sequence[Arg],
        *,
        idempotent: bool = False,
    ) -> Reply:
        """Run a script, as ``Client.script``."""
        self._refuse_unreachable(slot)
        call = self._client.script(slot, script, keys, args, idempotent=idempotent)
        return await self._answer(slot, call)

    async def call(self, slot: int, *args: Arg, idempotent: bool = False) -> Reply:
        """Send a command, as ``Client.call``."""
        self._refuse_unreachable(slot)
        return await self._answer(slot, self._client.call(slot, *args, idempotent=idempotent))

    def _refuse_unreachable(self, slot: int) -> None:
        if slot != self._probed and (
            slot in self._unreachable or not self._client.is_responsive(slot)
        ):
            self.failed_slot = slot
            raise BackendUnavailable(
                "the shard did not answer an earlier call", outcome="not_applied"
            )

    async def _answer(self, slot: int, call: Awaitable[Reply]) -> Reply:
        began = trio.current_time()
        try:
            with trio.move_on_after(float("inf") if self._patient else ANSWER_S) as scope:
                reply = await call
        except trio.Cancelled:
            # The time limit of the caller is over. The shard counts as unreachable if it has used
            # most of that time.
            if not self._patient and trio.current_time() - began >= ANSWER_S / 2:
                self._unreachable.add(slot)
            raise
        except (WritesRefused, OutOfTime):
            # A full shard answers, so it is not unreachable. Effects that empty it must not wait.
            raise
        except BackendUnavailable:
            self._fail(slot)
            raise
        if scope.cancelled_caught:
            self._fail(slot)
            raise BackendUnavailable("the shard did not answer in time", outcome="unknown")
        self._unreachable.discard(slot)
        return reply

    def _fail(self, slot: int) -> None:
        self.failed_slot = slot
        self._unreachable.add(slot)

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)
