"""Sign webhook requests in two ways: for OJS, and for Standard Webhooks.

Spec: ojs-webhooks 5.3 and 8.1; https://www.standardwebhooks.com. Each request has both signatures,
and the receiver verifies one of them.
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
        secrets: the secrets; more than one while a secret is being replaced.
        body: the body.
        kind: the type of the event.
        delivery_id: the id of the delivery, the same in each attempt.
        subscription_id: the id of the subscription.
        now_s: Unix time in seconds.
    """
    timestamp = str(now_s)
    ojs_text = f"{timestamp}.".encode() + body
    standard_text = f"{delivery_id}.{timestamp}.".encode() + body
    ojs = [hmac.new(secret.encode(), ojs_text, sha256).hexdigest() for secret in secrets]
    standard = [hmac.digest(standard_key(secret), standard_text, "sha256") for secret in secrets]
    return [
        ("Content-Type", "application/json"),
        ("User-Agent", USER_AGENT),
        ("X-OJS-Event-Type", kind),
        ("X-OJS-Delivery-ID", delivery_id),
        ("X-OJS-Subscription-ID", subscription_id),
        ("X-OJS-Timestamp", timestamp),
        ("X-OJS-Signature", ",".join(f"sha256={digest}" for digest in ojs)),
        ("webhook-id", delivery_id),
        ("webhook-timestamp", timestamp),
        (
            "webhook-signature",
            " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in standard),
        ),
    ]
