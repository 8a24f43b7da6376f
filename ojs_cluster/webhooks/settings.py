"""The settings of webhook deliveries."""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.core.access.client_address import Network
from ojs_cluster.core.config.parsers import boolean, networks, seconds
from ojs_cluster.core.config.variable import variable


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Settings of webhook deliveries.

    Attributes:
        allow_cidrs: networks that deliveries may reach although they are not public.
        allow_http: whether URLs may begin with ``http://``.
        timeout_s: maximum time of one attempt in seconds, from the look-up of the name to the
            response.
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
