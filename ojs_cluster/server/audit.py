"""Create the audit of a process from its configuration."""

from __future__ import annotations

import socket

from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.http.access.audit import Audit
from ojs_cluster.http.traffic import Traffic
from ojs_cluster.server.config.load import Settings


def make_audit(settings: Settings, name: str, traffic: Traffic) -> Audit:
    """Return the audit of the process ``name``; ``traffic`` counts the entries of the audit."""
    proxies = TrustedProxies(settings.listen.trusted_proxies)
    return Audit(proxies, traffic, process=f"{socket.gethostname()}/{name}")
