"""The bytes of a kubelet that probes the paths which operators of OJS write into pods."""

from __future__ import annotations

import pytest

from tests.clients.wire import Wire

# kubernetes, pkg/probe/http/request.go: the headers of every HTTP probe.
KUBELET = {"User-Agent": "kube-probe/1.31", "Accept": "*/*", "Connection": "close"}


# ojs-k8s-operator: the liveness and readiness probes of its containers.
@pytest.mark.parametrize(
    ("path", "alias_of", "status"), [("/healthz", "/live", "ok"), ("/readyz", "/ready", "ready")]
)
async def test_probes_of_an_operator_are_answered(
    wire: Wire, path: str, alias_of: str, status: str
) -> None:
    probed = await wire.send("GET", path, KUBELET)
    named = await wire.send("GET", alias_of, KUBELET)
    assert (probed.status, probed.json["status"]) == (200, status)
    assert probed.json.keys() == named.json.keys()
