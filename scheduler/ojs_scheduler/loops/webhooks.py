"""Send the deliveries of webhooks that are due (spec: ojs-webhooks 7).

The leader of a shard sends its deliveries. For events of cron jobs that is the leader of the meta
tag. A step finds the subscriptions with due deliveries, and starts one task for each: so a receiver
that is slow or away delays no other. All tasks of one receiver, of all shards that this process
leads, share ``_Receiver``. It limits how many batches are in memory and how many requests are open,
and lets all of them wait when the receiver asks for it, or when it has failed several times in a
row.

An attempt that was sent but not recorded, because the process died or its term has ended, is
repeated. So a receiver may get a delivery twice, always under the same id.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec
import trio

from ojs_cluster.core.errors import InvalidRequest, NotFound, OJSError
from ojs_cluster.core.webhooks import Subscription
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.webhooks import deliveries
from ojs_cluster.store.features.webhooks.deliveries import Delivery, Outcome
from ojs_cluster.store.ground.process_state import subscriptions
from ojs_cluster.store.ground.sweep_result import SweepResult
from ojs_cluster.webhooks.addresses import parse_url
from ojs_cluster.webhooks.client import AttemptResult, WebhookClient
from ojs_cluster.webhooks.settings import WebhookSettings
from ojs_cluster.webhooks.signatures import signed_headers
from ojs_scheduler.pacing import ShardLoop, Step

Wake = Callable[[int], None]
"""Called with the index of a shard that must be checked again."""

log = logging.getLogger("ojs.scheduler")

_BATCH: Final = 8
"""Maximum number of deliveries of one shard and subscription in memory."""
_MAX_BATCHES: Final = 4
"""Maximum number of batches of one subscription in memory."""
_MAX_REQUESTS: Final = 8
"""Maximum number of open requests to one subscription."""
_MAX_IDLE: Final = 256
"""Maximum number of idle connections to receivers."""
_FAILURES_WITHOUT_PAUSE: Final = 5
"""Number of failures in a row after which all deliveries to a receiver wait."""
_LONGEST_PAUSE_S: Final = 30.0
_LONGEST_RETRY_AFTER_S: Final = 24 * 3600.0
_INACTIVE_CHECK_S: Final = 60.0
"""Time in seconds between two checks whether an inactive subscription is active again."""
_INACTIVE_KEPT_MS: Final = 3 * 24 * 3_600_000
"""Age in ms at which a delivery to an inactive subscription is dead."""
_FAILURE_PAUSE_S: Final = 1.0
_MAX_DOUBLINGS: Final = 30
"""Of a pause: a float cannot hold what the failures of an hour would double it to."""
_GONE: Final = 410
_TOO_MANY: Final = 429


@dataclass
class _Receiver:
    """What the tasks of one subscription share.

    Attributes:
        batches: limits the batches in memory.
        requests: limits the open requests.
        failures: number of failed attempts in a row.
        wait_until_s: local time until which nothing is sent.
    """

    batches: trio.CapacityLimiter = field(
        default_factory=partial(trio.CapacityLimiter, _MAX_BATCHES)
    )
    requests: trio.CapacityLimiter = field(
        default_factory=partial(trio.CapacityLimiter, _MAX_REQUESTS)
    )
    failures: int = 0
    wait_until_s: float = float("-inf")

    def note(self, result: AttemptResult) -> None:
        """Note the result of an attempt."""
        now = trio.current_time()
        away = result.status == 0 or result.status >= 500 or result.status == _TOO_MANY
        self.failures = self.failures + 1 if away else 0
        if away and result.retry_after_s is not None:
            pause_s = min(result.retry_after_s, _LONGEST_RETRY_AFTER_S)
            self.wait_until_s = max(self.wait_until_s, now + pause_s)
        elif self.failures >= _FAILURES_WITHOUT_PAUSE:
            doublings = min(self.failures - _FAILURES_WITHOUT_PAUSE, _MAX_DOUBLINGS)
            pause_s = min(2.0**doublings, _LONGEST_PAUSE_S)
            self.wait_until_s = max(self.wait_until_s, now + pause_s)
        elif not away:
            self.wait_until_s = float("-inf")


def decide(
    result: AttemptResult, attempts: int, delays_s: Sequence[float]
) -> tuple[Outcome, float]:
    """Return the outcome of an attempt, and after how many seconds the next one is due.

    A redirect is an attempt that failed: it is not followed, and the operator of the receiver may
    correct it. Other statuses are treated as the specification says (ojs-webhooks 7.1).

    Args:
        result: what the attempt returned.
        attempts: number of attempts before it.
        delays_s: pauses between attempts in seconds.
    """
    if result.delivered:
        return "delivered", 0.0
    if 400 <= result.status < 500 and result.status != _TOO_MANY:
        return "dead", 0.0
    if attempts >= len(delays_s):
        return "dead", 0.0
    asked = min(result.retry_after_s or 0.0, _LONGEST_RETRY_AFTER_S)
    return "failed", max(delays_s[attempts], asked)


class WebhookSender:
    """Sends the deliveries of the shards that this process leads.

    Args:
        store: an open store.
        settings: the settings of deliveries.
        client: sends requests.
    """

    def __init__(
        self, store: Store, settings: WebhookSettings, client: WebhookClient | None = None
    ) -> None:
        self._store = store
        self._settings = settings
        self._client = client or WebhookClient(settings, max_idle=_MAX_IDLE)
        self._receivers: dict[str, _Receiver] = {}
        self._busy: set[tuple[int, str]] = set()

    def close(self) -> None:
        """Close the idle connections to receivers."""
        self._client.close()

    async def start_due(self, index: int, nursery: trio.Nursery, wake: Wake) -> SweepResult:
        """Start a task for each subscription with due deliveries of a shard.

        Args:
            index: index of the shard, or ``META``.
            nursery: where the tasks run; its end is the end of this process's term.
            wake: called with the index when a task has ended, so that the shard is checked again.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        shard = self._store.keys.webhook_tag(index)
        now_ms, first_ms, ids = await deliveries.read_due(self._store, shard)
        next_ms: float | None = first_ms
        started = 0
        for subscription_id in ids:
            wait_ms = self._wait_ms(subscription_id)
            if wait_ms:
                # Without a call of Redis: each new event makes the subscription due again.
                next_ms = min(next_ms or math.inf, now_ms + wait_ms)
            elif (index, subscription_id) not in self._busy:
                self._busy.add((index, subscription_id))
                started += 1
                nursery.start_soon(self._send_all, shard, subscription_id, wake)
        return SweepResult(started, None if next_ms is None else int(next_ms), now_ms, False)

    def _wait_ms(self, subscription_id: str) -> int:
        """Return how long an active subscription's receiver must wait, in ms; 0 to send now."""
        receiver = self._receivers.get(subscription_id)
        subscription = self._store.webhooks.get(subscription_id)
        if receiver is None or subscription is None or not subscription.active:
            return 0
        return math.ceil(max(0.0, receiver.wait_until_s - trio.current_time()) * 1000)

    async def _send_all(self, shard: Shard, subscription_id: str, wake: Wake) -> None:
        """Send a subscription's due deliveries of one shard until none is due."""
        receiver = self._receiver_of(subscription_id)
        try:
            more = True
            while more:
                async with receiver.batches:
                    more = await self._send_batch(shard, subscription_id, receiver)
        except OJSError as error:
            log.warning(
                "webhook deliveries of a shard fail, will retry",
                extra={"shard": shard.index, "subscription": subscription_id, "error": repr(error)},
            )
            await trio.sleep(_FAILURE_PAUSE_S)
        except Exception:  # an exception in the nursery would end the term
            log.exception("webhook deliveries fail", extra={"subscription": subscription_id})
            await trio.sleep(_FAILURE_PAUSE_S)
        finally:
            self._busy.discard((shard.index, subscription_id))
            wake(shard.index)

    def _receiver_of(self, subscription_id: str) -> _Receiver:
        """Return the receiver of a subscription; forget those of deleted ones for a new one."""
        receiver = self._receivers.get(subscription_id)
        if receiver is None:
            in_use = {each for _, each in self._busy}
            for other in [each for each in self._receivers if each not in in_use]:
                if not self._store.webhooks.exists(other):
                    del self._receivers[other]
            receiver = self._receivers[subscription_id] = _Receiver()
        return receiver

    async def _send_batch(self, shard: Shard, subscription_id: str, receiver: _Receiver) -> bool:
        """Send some due deliveries; return whether more may be due.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        store = self._store
        subscription = await self._find(subscription_id)
        if subscription is None and store.webhooks.is_damaged(subscription_id):
            await self._wait(shard, subscription_id, _INACTIVE_CHECK_S)
            return False
        if subscription is None:
            await deliveries.purge(store, shard, subscription_id)
            self._receivers.pop(subscription_id, None)
            return False
        wait_s = receiver.wait_until_s - trio.current_time()
        if wait_s > 0 and subscription.active:
            await self._wait(shard, subscription_id, wait_s)
            return False
        batch = await deliveries.next_due(store, shard, subscription_id, _BATCH)
        for number in batch.damaged:
            log.error("webhook delivery %r of shard %d is damaged", number, shard.index)
            await deliveries.record(store, shard, subscription_id, number, "dropped")
        if not subscription.active:
            return await self._keep_for_inactive(shard, subscription_id, batch.deliveries)
        failures: list[Exception] = []

        async def send(delivery: Delivery) -> None:
            try:
                await self._send(subscription, receiver, delivery)
            except Exception as error:  # must not cancel the other requests
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for each in batch.deliveries:
                nursery.start_soon(send, each)
        if failures:
            raise failures[0]
        return bool(batch.deliveries or batch.damaged)

    async def _find(self, subscription_id: str) -> Subscription | None:
        """Return a subscription; None if it does not exist any more, or its record is damaged."""
        found = self._store.webhooks.get(subscription_id)
        if found is None:
            # It may be newer than the copy of this process.
            await self._store.webhooks.read(self._store)
            found = self._store.webhooks.get(subscription_id)
        return found

    async def _wait(self, shard: Shard, subscription_id: str, wait_s: float) -> None:
        wait_ms = math.ceil(wait_s * 1000)
        await deliveries.next_due(self._store, shard, subscription_id, 0, wait_ms=wait_ms)

    async def _keep_for_inactive(
        self, shard: Shard, subscription_id: str, found: Sequence[Delivery]
    ) -> bool:
        """Give up the deliveries that have waited too long; let the others wait.

        Returns:
            Whether some were given up. Then more may be due.
        """
        oldest_ms = self._store.clock.now_ms() - _INACTIVE_KEPT_MS
        old = [each for each in found if each.created_ms < oldest_ms]
        for each in old:
            await deliveries.record(
                *(self._store, shard, subscription_id, each.number, "dead"),
                error="the subscription is not active",
            )
        if not old and found:
            await self._wait(shard, subscription_id, _INACTIVE_CHECK_S)
        return bool(old)

    async def _send(
        self, subscription: Subscription, receiver: _Receiver, delivery: Delivery
    ) -> None:
        """Make one attempt and record its outcome.

        Raises:
            BackendUnavailable: Redis did not answer in time. The attempt will be repeated.
        """
        async with receiver.requests:
            if receiver.wait_until_s > trio.current_time():
                return  # the receiver has asked to wait in the meantime
            result = await self._attempt(subscription, delivery)
        receiver.note(result)
        outcome, delay_s = decide(result, delivery.attempts, self._settings.retry_delays_s)
        await deliveries.record(
            *(self._store, delivery.shard, subscription.id, delivery.number, outcome),
            wait_ms=math.ceil(delay_s * 1000),
            status=result.status,
            error=result.error,
        )
        if result.status == _GONE:
            await self._deactivate(subscription)

    async def _attempt(self, subscription: Subscription, delivery: Delivery) -> AttemptResult:
        try:
            url = parse_url(subscription.url, allow_http=self._settings.allow_http)
        except InvalidRequest as error:
            return AttemptResult(0, error.message, b"", 0)
        now_s = int(self._store.clock.now_s())
        body = delivery.body()
        headers = signed_headers(
            subscription.signing_keys(now_s * 1000),
            body,
            kind=delivery.kind,
            delivery_id=delivery.id,
            subscription_id=subscription.id,
            now_s=now_s,
        )
        return await self._client.post(url, headers, body)

    async def _deactivate(self, subscription: Subscription) -> None:
        """Deactivate a subscription whose receiver is gone, unless its URL has changed."""

        def change(old: Subscription) -> Subscription:
            if old.url != subscription.url:
                return old
            return msgspec.structs.replace(
                old, active=False, disabled_reason="the receiver answered 410 Gone"
            )

        try:
            await subscriptions.change(self._store, subscription.id, change)
            await self._store.webhooks.read(self._store)
        except NotFound:
            return
        log.warning("webhook subscription %s is inactive: 410 Gone", subscription.id)


class WebhookLoop:
    """The loop of webhook deliveries on all shards that this process leads.

    Args:
        sender: sends the deliveries.
        make_loop: makes a ``ShardLoop`` from a step.
    """

    def __init__(self, sender: WebhookSender, make_loop: Callable[[Step], ShardLoop]) -> None:
        self._sender = sender
        self._nurseries: dict[int, trio.Nursery] = {}
        self.shards = make_loop(self._step)

    async def serve(self, shard: int) -> None:
        """Send the deliveries of one shard until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nurseries[shard] = nursery
            await self.shards.serve(shard)

    async def _step(self, shard: int) -> SweepResult:
        return await self._sender.start_due(shard, self._nurseries[shard], self.shards.wake)
