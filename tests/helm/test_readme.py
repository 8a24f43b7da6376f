"""The README of the chart agrees with values.yaml and with the tested versions."""

from __future__ import annotations

import re

from tests.helm.chart import NEWEST, OLDEST, Chart
from tests.helm.values_table import ADDED, README, added, readme


def test_the_readme_is_current() -> None:
    assert README.read_text() == readme(), "run: make chart-docs"
    assert ADDED.read_text() == added(), "run: make chart-docs"


def test_its_versions_are_those_of_the_tests(each_helm: Chart) -> None:
    text = " ".join(README.read_text().split())
    (named,) = re.findall(
        r"The tests use Helm (\S+) and (\S+), for Kubernetes (\S+) and (\d+\.\d+)\.", text
    )
    assert named[2:] == (OLDEST, NEWEST)
    assert each_helm.run("version", "--template={{.Version}}").strip("v") in named[:2]
