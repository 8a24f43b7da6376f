"""Sign webhook requests: as the OJS specification and as Standard Webhooks say.

Spec: ojs-webhooks 5.3 and 8.1; https://www.standardwebhooks.com. A receiver verifies the style that
it knows.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from hashlib import sha256

from ojs_cluster import __version__
from ojs_cluster.core.webhooks import standard_key

USER_AGENT = f"OJS-Webhook/1.0 (ojs-cluster/{__version__})"


def signed_headers(
    secrets: Sequence[str],
    body: bytes,
    *,
    kind: str,
    delivery_id: str,
    subscription_id: str,
    now_s: int,
) -> list[tuple[str, str]]:
    """Return the headers of a webhook request.

    Args:
        secrets: the secrets that sign; more than one while a secret is being replaced.
        body: the body.
        kind: the type of the event.
        delivery_id: the id of the delivery, the same in each attempt.
        subscription_id: the id of the subscription.
        now_s: Unix time in seconds.
    """
    timestamp = str(now_s)
    plain = f"{timestamp}.".encode() + body
    named = f"{delivery_id}.{timestamp}.".encode() + body
    ours = [hmac.new(secret.encode(), plain, sha256).hexdigest() for secret in secrets]
    standard = [hmac.digest(standard_key(secret), named, "sha256") for secret in secrets]
    return [
        ("Content-Type", "application/json"),
        ("User-Agent", USER_AGENT),
        ("X-OJS-Event-Type", kind),
        ("X-OJS-Delivery-ID", delivery_id),
        ("X-OJS-Subscription-ID", subscription_id),
        ("X-OJS-Timestamp", timestamp),
        ("X-OJS-Signature", ",".join(f"sha256={digest}" for digest in ours)),
        ("webhook-id", delivery_id),
        ("webhook-timestamp", timestamp),
        (
            "webhook-signature",
            " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in standard),
        ),
    ]
