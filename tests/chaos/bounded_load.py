"""Producers whose jobs have limits, bounds, tenants or idempotency keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from tests.chaos.client import JSON
from tests.chaos.names import (
    ANY_QUEUES,
    BOUNDED,
    CROWDED,
    FOR_GOOD,
    FREE,
    HASTY,
    PAUSED,
    RATED,
    SOURCE,
    TENANTS,
)
from tests.chaos.producers import Producer


class BoundedProducer(Producer):
    """One producer of such jobs."""

    async def bounded(self) -> None:
        """Enqueue a job in the queue with a bound."""
        options: JSON = {"retry": FOR_GOOD}
        if self.chance.random() < 0.2:
            options["scheduled_at"] = "+PT1S"
        await self.one(BOUNDED, options)

    async def paused(self) -> None:
        """Enqueue a job in a queue that operators pause and drain."""
        await self.one(PAUSED, {"retry": FOR_GOOD})

    async def rated(self) -> None:
        """Enqueue a job in the queue with a rate."""
        await self.one(RATED, {"retry": FOR_GOOD})

    async def moving(self) -> None:
        """Enqueue a job in the queue that operators delete and whose jobs they move."""
        options: JSON = {"retry": FOR_GOOD, "priority": self.chance.randint(0, 1)}
        if self.chance.random() < 0.5:
            options["scheduled_at"] = f"+PT{self.chance.uniform(0.2, 4):.1f}S"
        await self.one(SOURCE, options)

    async def of_tenant(self) -> None:
        """Enqueue a job of a tenant, in the queue that tenants share."""
        tenant = self.chance.choice((CROWDED, CROWDED, HASTY, HASTY, FREE))
        options: JSON = {"retry": FOR_GOOD}
        if self.chance.random() < 0.3:
            options["scheduled_at"] = "+PT2S"
        told, _ = await self.one(TENANTS, options, tenant=tenant)
        if told.done and told.body.get("job"):
            self.known.of_tenants.append((tenant, told.body["job"]["id"]))

    async def keyed(self) -> None:
        """Enqueue jobs by a bulk request with an idempotency key, and perhaps repeat it."""
        key = f"{self.chance.getrandbits(64):x}"
        queues = [*(self.chance.choice(ANY_QUEUES) for _ in range(2)), BOUNDED, PAUSED]
        jobs = [
            {
                "type": "chaos.keyed",
                "args": [key, index],
                "options": {"queue": queue, "retry": FOR_GOOD},
            }
            for index, queue in enumerate(queues[: self.chance.randint(1, len(queues))])
        ]
        if self.chance.random() < 0.2:
            jobs.append({"type": "", "args": [key, len(jobs)]})
        self.known.requests[key] = body = {"jobs": jobs}
        for _ in range(self.chance.randint(1, 3)):
            await self.client.enqueue_keyed(key, body)


STEPS_OF_BOUNDED_LOAD: Final[
    Sequence[tuple[str, Callable[[BoundedProducer], Awaitable[None]], float]]
] = (
    ("bounded-0", BoundedProducer.bounded, 0.3),
    ("bounded-1", BoundedProducer.bounded, 0.3),
    ("paused", BoundedProducer.paused, 0.4),
    ("rated", BoundedProducer.rated, 0.25),
    ("moving", BoundedProducer.moving, 0.3),
    ("tenants-0", BoundedProducer.of_tenant, 0.35),
    ("tenants-1", BoundedProducer.of_tenant, 0.35),
    ("keyed", BoundedProducer.keyed, 0.8),
)
"""Name, what is repeated, and mean pause in seconds."""
