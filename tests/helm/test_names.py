"""Object names are unique among the releases of a namespace, and valid for Kubernetes."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.helm.chart import CHART, Chart, options
from tests.helm.fake_cluster import running
from tests.helm.values_table import FIRST

BUNDLED = CHART / "ci" / "bundled-cluster-values.yaml"
LONG = "a-release-with-the-name-of-a-team-blue"
_WORDS = ["ojs-cluster", "ojs", "jobs", "api", "scheduler", "valkey", "test", "a" * 20, "b" * 20]
RELEASE = st.lists(st.sampled_from(_WORDS), min_size=1, max_size=5).flatmap(
    lambda words: st.sampled_from(["-", "-", "."]).map(lambda mark: mark.join(words)[:53])
)
"""Release names as people and CI create them: of the same few words, and truncated by Helm."""


@pytest.fixture(scope="module")
def naming(chart: Chart, tmp_path_factory: pytest.TempPathFactory) -> Chart:
    """Return a chart that only renders the full name for each of many releases."""
    folder = tmp_path_factory.mktemp("naming")
    (folder / "templates").mkdir()
    (folder / "Chart.yaml").write_text((CHART / "Chart.yaml").read_text())
    names = (CHART / "templates" / "_names.tpl").read_text()
    (folder / "templates" / "_names.tpl").write_text(names)
    (folder / "templates" / "names.yaml").write_text(
        "{{- range $name := .Values.releases }}\n"
        '{{- $release := dict "Name" $name "Namespace" "work" }}\n'
        '{{ $name }}: {{ include "ojs.fullname" (dict "Release" $release "Chart" $.Chart '
        '"Values" (dict "nameOverride" "" "fullnameOverride" "")) }}\n'
        "{{- end }}\n"
    )
    return Chart(chart.helm, folder)


def full_names(naming: Chart, releases: list[str]) -> dict[str, str]:
    """Return the full name of each release."""
    text = naming.run("template", "x", str(naming.path), *options([], {"releases": releases}))
    found: dict[str, str] = yaml.safe_load(text)
    return found


@pytest.fixture(scope="module")
def endings(chart: Chart) -> list[str]:
    """Return the suffixes that the chart adds to the full name, for all its objects."""
    rendering = chart.render(
        CHART / "ci" / "production-values.yaml", BUNDLED, sets={"redis.url": ""}
    )
    names = [manifest["metadata"]["name"] for manifest in rendering.manifests]
    return sorted({name.removeprefix("jobs-ojs-cluster") for name in names})


@settings(max_examples=5)
@given(st.sets(RELEASE, min_size=40, max_size=120))
@example({"jobs", "jobs-ojs-cluster", "jobs-ojs-cluster-api", "ojs-cluster", "ojs-cluster-test"})
@example({f"{LONG}-a", f"{LONG}-b", f"{LONG}-b-ojs-cluster", "a.b", "a-b"})
def test_no_two_releases_share_a_name(
    naming: Chart, endings: list[str], releases: set[str]
) -> None:
    owners = defaultdict(set)
    for release, full in full_names(naming, sorted(releases)).items():
        assert re.fullmatch("[a-z]([a-z0-9-]*[a-z0-9])?", full), "a name of a Service"
        for ending in endings:
            name = full + re.sub("[0-9a-f]{8}$", "hash", ending)
            assert len(full + ending) <= 63 - len("-12345"), "a pod of a Job adds six"
            owners[name].add(release)
    assert {name: each for name, each in owners.items() if len(each) > 1} == {}


def test_no_release_name_can_end_in_a_suffix_of_the_chart(
    naming: Chart, endings: list[str]
) -> None:
    # Release `ojs-cluster` has an object with this name.
    for ending in filter(None, endings):
        name = f"ojs-cluster{ending}"
        assert full_names(naming, [name]) != {name: name}


def test_names_without_a_conflict_have_no_hash(naming: Chart) -> None:
    assert full_names(naming, ["jobs", "ojs-cluster", "ojs-cluster-blue", "my-ojs-cluster-2"]) == {
        "jobs": "jobs-ojs-cluster",
        "ojs-cluster": "ojs-cluster",
        "ojs-cluster-blue": "ojs-cluster-blue",
        "my-ojs-cluster-2": "my-ojs-cluster-2",
    }


def test_long_full_names_of_the_user_are_unique_too(chart: Chart) -> None:
    def name(full: str) -> str:
        rendering = chart.render(BUNDLED, sets={"fullnameOverride": full})
        return str(rendering.one("StatefulSet")["metadata"]["name"])

    assert name(f"{LONG}-a") != name(f"{LONG}-b")
    assert name("x" * 36) == f"{'x' * 36}-valkey"


def test_an_upgrade_keeps_the_names_of_an_earlier_chart(each_helm: Chart) -> None:
    values = options([CHART / "ci" / "minimal-values.yaml"], {"tests.enabled": False})
    values.append("--disable-openapi-validation")
    with running() as cluster:
        cluster.helm(each_helm, "install", LONG, str(FIRST), *values)
        before = {each["metadata"]["name"] for each in cluster.objects.values()}
        cluster.helm(each_helm, "upgrade", LONG, str(CHART), *values)
        after = {each["metadata"]["name"] for each in cluster.objects.values()}
        assert after - before == {f"sh.helm.release.v1.{LONG}.v2"}
        assert before - after == set()
        # Another release with the same prefix has other names.
        cluster.helm(each_helm, "install", f"{LONG}-2", str(CHART), *values)
