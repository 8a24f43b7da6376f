"""The settings of webhook deliveries."""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.core.access.client_address import Network, networks
from ojs_cluster.core.config.parsers import boolean, durations, integer, seconds
from ojs_cluster.core.config.variable import variable


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Settings of webhook deliveries.

    Attributes:
        allow_cidrs: networks that deliveries may reach although they are not public.
        allow_http: whether URLs may begin with ``http://``.
        timeout_s: maximum time of one attempt in seconds, from the look-up of the name to the
            response.
        retry_delays_s: pauses between the attempts of a delivery, in seconds.
        max_pending: maximum number of pending deliveries of one subscription in one shard.
        max_stored: maximum number of deliveries of one shard; one that was tried counts twice. In a
            shard that has more, each subscription gets further deliveries up to its equal part. So
            there are twice as many deliveries at most.
    """

    allow_cidrs: tuple[Network, ...] = variable(
        "OJS_WEBHOOK_ALLOW_CIDRS",
        networks,
        "",
        "Addresses and networks that webhooks may reach although they are not public, comma "
        "separated.",
        empty=(),
    )
    allow_http: bool = variable(
        "OJS_WEBHOOK_ALLOW_HTTP",
        boolean,
        "false",
        "Accept webhook URLs without TLS (http://).",
    )
    timeout_s: float = variable(
        "OJS_WEBHOOK_TIMEOUT",
        seconds(minimum=1, maximum=60),
        "30s",
        "Maximum time of one attempt to deliver a webhook.",
    )
    retry_delays_s: tuple[float, ...] = variable(
        "OJS_WEBHOOK_RETRY_DELAYS",
        durations(minimum=0.01, maximum=7 * 86_400, count=20),
        "30s,2m,10m,1h,4h,12h,24h",
        "Pauses between the attempts to deliver a webhook, comma separated. A delivery that fails "
        "once more is dead.",
    )
    max_pending: int = variable(
        "OJS_WEBHOOK_MAX_PENDING",
        integer(minimum=1, maximum=10_000_000),
        "100000",
        "Maximum number of pending deliveries of one webhook subscription in one shard. Further "
        "events are not delivered to it. A delivery takes about 500 bytes.",
    )
    max_stored: int = variable(
        "OJS_WEBHOOK_MAX_STORED",
        integer(minimum=10_000, maximum=100_000_000),
        "200000",
        "Maximum number of webhook deliveries of all subscriptions in one shard. Above it a "
        "subscription gets further ones only up to its equal part. A delivery counts twice once it "
        "was tried.",
    )
