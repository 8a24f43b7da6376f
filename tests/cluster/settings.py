"""Where the tests run, and the reasons to skip them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

KUBECONFIG, IMAGE = "OJS_TEST_KUBECONFIG", "OJS_TEST_IMAGE"


def required() -> None:
    """Skip the module that calls this, with one line, where no cluster is named."""
    try:
        Settings.read(os.environ)
    except Missing as problem:
        pytest.skip(str(problem), allow_module_level=True)


class Missing(Exception):
    """The tests cannot run here; the message says what they need."""


@dataclass(frozen=True)
class Settings:
    """A cluster, and the image that it is to run."""

    kubeconfig: Path
    image: str
    kubectl: str
    helm: str

    @classmethod
    def read(
        cls, environment: Mapping[str, str], which: Callable[[str], str | None] = shutil.which
    ) -> Settings:
        """Take them from the environment. Raises ``Missing``."""
        if not environment.get(KUBECONFIG):
            raise Missing(f"{KUBECONFIG} names no kubeconfig of a cluster to test on")
        kubeconfig = Path(environment[KUBECONFIG])
        if not kubeconfig.is_file():
            raise Missing(f"{KUBECONFIG}: {kubeconfig} is no file")
        if not environment.get(IMAGE):
            raise Missing(f"{IMAGE} names no image that the cluster can pull")
        programs = {name: which(name) for name in ("kubectl", "helm")}
        if absent := [name for name, path in programs.items() if path is None]:
            raise Missing(f"not on PATH: {', '.join(absent)}")
        return cls(kubeconfig, environment[IMAGE], str(programs["kubectl"]), str(programs["helm"]))

    def image_values(self) -> dict[str, Any]:
        """The image as the chart's values spell it."""
        name, _, digest = self.image.partition("@")
        head, colon, tag = name.rpartition(":")
        if not colon or "/" in tag:  # a colon of the registry's port
            head, tag = name, ""
        return {"image.repository": head, "image.tag": tag, "image.digest": digest}
