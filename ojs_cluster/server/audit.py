"""The audit of a process, as the configuration has it."""

from __future__ import annotations

import socket

from ojs_cluster.config import Settings
from ojs_cluster.core.client_address import TrustedProxies
from ojs_cluster.http.audit import Audit
from ojs_cluster.http.traffic import Traffic


def make_audit(settings: Settings, name: str, traffic: Traffic) -> Audit:
    """Return the audit of the process with this name; ``traffic`` counts its entries."""
    proxies = TrustedProxies(settings.listen.trusted_proxies)
    return Audit(proxies, traffic, process=f"{socket.gethostname()}/{name}")
