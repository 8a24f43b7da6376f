"""Whether this machine can run the containers."""

from __future__ import annotations

from tests.containers import base, oci
from tests.helm.valkey_pods import CLI


def lacking() -> str:
    """Return what this machine would need besides; empty when nothing."""
    found = [base.missing(), oci.missing(), "" if CLI else "valkey-cli or redis-cli"]
    return ", ".join(filter(None, found))
