"""The operation of a webhook: an event is sent to its subscription and recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import trio

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.webhooks import deliveries
from ojs_cluster.store.ground.process_state import subscriptions
from ojs_cluster.webhooks.client import AttemptResult, WebhookClient
from ojs_scheduler.loops.webhooks import WebhookSender
from tests.crash.harness import World
from tests.store.shortcuts import put, shard_of
from tests.store.webhook_jobs import subscribe


@dataclass
class Receiving:
    """A receiver that accepts everything, in place of the HTTP client."""

    ids: list[str] = field(default_factory=list)

    async def post(
        self, _url: object, headers: Sequence[tuple[str, str]], _body: bytes, **_: Any
    ) -> AttemptResult:
        await trio.lowlevel.checkpoint()
        self.ids.append(dict(headers)["webhook-id"])
        return AttemptResult(200, "", b"", 1)


@dataclass(frozen=True, slots=True)
class Scene:
    """A subscription with deliveries that are due."""

    subscription: str
    shard: Shard
    receiver: Receiving
    due: frozenset[str]


class Delivering:
    """Two deliveries of one subscription are sent."""

    least = 4

    async def prepare(self, world: World) -> Scene:
        store = world.store
        made = await subscribe(store, "job.enqueued", url="https://hooks.example/")
        await store.webhooks.read(store)
        for _ in range(2):
            await put(store)
        due = await deliveries.list_newest(store, limit=9, states=("pending",))
        assert len(due) == 2
        return Scene(made.id, shard_of(store), Receiving(), frozenset(each.id for each in due))

    async def act(self, store: Store, scene: Scene) -> None:
        client = cast(WebhookClient, scene.receiver)
        sender = WebhookSender(store, store.settings.webhooks, client)
        async with trio.open_nursery() as nursery:
            await sender.start_due(scene.shard.index, nursery, lambda _: None)

    async def happened(self, world: World, scene: Scene) -> bool:
        """The next leader sends what is not recorded, under the same id."""
        await self.act(world.store, scene)
        found = await deliveries.list_newest(world.store, limit=9)
        mine = [each for each in found if each.id in scene.due]
        assert [each.state for each in mine] == ["delivered"] * 2
        assert set(scene.receiver.ids) == scene.due
        return True

    async def finish(self, world: World, scene: Scene) -> None:
        store = world.store
        if scene.subscription in (await subscriptions.read_all(store)).stored:
            await subscriptions.delete(store, scene.subscription)
        await store.webhooks.read(store)
        for shard in store.keys:
            await deliveries.purge(store, shard, scene.subscription)
