"""The cluster, namespaces of it, and a release of the bundled Valkey Cluster."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import objects
from tests.cluster.release import Release, installed, namespace, options_of
from tests.cluster.settings import Settings
from tests.cluster.tools import Helm, Kubectl
from tests.helm.conftest import chart

__all__ = ["bundled", "chart", "nodes", "settings", "space", "three"]


@pytest.fixture(scope="session")
def settings() -> Settings:
    """Give where to test."""
    return Settings.read(os.environ)


@pytest.fixture(scope="session")
def nodes(settings: Settings) -> Kubectl:
    """Give kubectl for what belongs to no namespace."""
    return Kubectl(settings.kubectl, settings.kubeconfig)


@pytest.fixture(scope="session")
def three(nodes: Kubectl) -> list[str]:
    """Give the names of the nodes that take pods; skips when there are fewer than three."""
    found = [objects.name(node) for node in objects.workers(nodes.list("nodes"))]
    if len(found) < 3:
        pytest.skip(f"needs three nodes that take pods, and the cluster has {len(found)}")
    return found


@pytest.fixture(scope="module")
def space(nodes: Kubectl) -> Iterator[Kubectl]:
    """Give a namespace that enforces Pod Security ``restricted``."""
    with namespace(nodes, f"ojs-test-{uuid.uuid4().hex[:8]}") as made:
        yield made


@pytest.fixture(scope="module")
def bundled(settings: Settings, space: Kubectl) -> Iterator[Release]:
    """Give a release with the bundled Valkey Cluster, which the tests of a module share."""
    with installed(release_of(settings, space, "jobs")) as release:
        yield release


def release_of(settings: Settings, space: Kubectl, name: str, **sets: Any) -> Release:
    """A release that is not installed yet; values are named with ``__`` for a dot."""
    helm = Helm(settings.helm, settings.kubeconfig, space.namespace)
    return Release(name, space, helm, options_of(settings.image_values(), **sets))
