"""Every set of values renders to valid, consistent manifests without a visible secret."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from ojs_cluster import __version__
from tests.helm import tools
from tests.helm.chart import CHART, CI, LOADER, NEWEST, OLDEST, Chart, Rendering
from tests.helm.crds import validate

SECRETS = ("not-a-real", "the-former-key", "se%3Acret")
"""Contents of the secret values in `ci/`."""


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem)
def test_lint_finds_nothing(chart: Chart, values: Path) -> None:
    assert "0 chart(s) failed" in chart.run("lint", "--strict", str(CHART), "-f", str(values))


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem)
@pytest.mark.parametrize("kubernetes", [OLDEST, NEWEST])
def test_every_manifest_is_valid(chart: Chart, values: Path, kubernetes: str) -> None:
    manifests = chart.render(values, kubernetes=kubernetes).manifests
    assert manifests
    for manifest in manifests:
        validate(manifest, kubernetes)


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem)
def test_each_major_of_helm_renders_the_same_every_time(each_helm: Chart, values: Path) -> None:
    command = ["template", "jobs", str(CHART), "--namespace", "work", "--values", str(values)]
    command += ["--kube-version", f"v{NEWEST}.0"]
    once, again = each_helm.run(*command), each_helm.run(*command)
    assert once == again
    manifests = [each for each in yaml.load_all(once, LOADER) if each]
    assert sorted(manifests, key=str) == sorted(
        Chart(tools.helm()).render(values).manifests, key=str
    )


@pytest.mark.parametrize("values", ["keda", "bundled-cluster"])
def test_a_wrong_manifest_is_found(chart: Chart, values: str) -> None:
    for manifest in chart.render(CHART / "ci" / f"{values}-values.yaml").manifests:
        if "spec" in manifest:
            wrong = {**manifest, "spec": {**manifest["spec"], "noSuchField": 1}}
            with pytest.raises(Exception, match=r".*"):
                validate(wrong, NEWEST)


def test_the_chart_runs_this_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


def test_a_version_of_kubernetes_that_is_too_old_is_refused(chart: Chart) -> None:
    with pytest.raises(Exception, match=r"kubeVersion: >=1\.27"):
        chart.render(CHART / "ci" / "minimal-values.yaml", kubernetes="1.26")


def test_names_are_unique(rendering: Rendering) -> None:
    names = [(m["kind"], m["metadata"]["name"]) for m in rendering.manifests]
    assert len(set(names)) == len(names)


def test_no_name_is_longer_than_kubernetes_allows(chart: Chart) -> None:
    long = chart.render(
        CHART / "ci" / "bundled-cluster-values.yaml", release="a" * 53, sets={"tests.enabled": True}
    )
    for manifest in long.manifests:
        # A pod of a Job adds six characters, one of a StatefulSet two, and both become labels.
        assert len(manifest["metadata"]["name"]) <= 63 - len("-12345")


def test_secrets_are_in_secrets_only(rendering: Rendering) -> None:
    for manifest in rendering.manifests:
        if manifest["kind"] != "Secret":
            text = yaml.safe_dump(manifest)
            assert not [secret for secret in SECRETS if secret in text], manifest["kind"]


def test_every_reference_to_a_secret_or_config_map_of_the_release_holds(
    rendering: Rendering,
) -> None:
    there = {
        (manifest["kind"], manifest["metadata"]["name"]): manifest
        for manifest in rendering.manifests
    }
    for name, reference in references(rendering):
        kind = "Secret" if "secret" in reference["as"] else "ConfigMap"
        if not reference["name"].startswith("jobs-ojs-cluster"):
            continue  # the user's own
        assert (kind, reference["name"]) in there, f"{name} needs {reference}"
        if reference["key"]:
            assert reference["key"] in there[kind, reference["name"]]["data"]


def references(rendering: Rendering) -> list[tuple[str, dict[str, str]]]:
    """Return every Secret and ConfigMap that a pod refers to."""
    found: list[tuple[str, dict[str, str]]] = []

    def note(owner: str, kind: str, source: Any) -> None:
        entry = {"as": kind, "name": source.get("name") or source["secretName"]}
        found.append((owner, {**entry, "key": source.get("key", "")}))

    for owner, pod in rendering.pods():
        for volume in pod["spec"].get("volumes", []):
            for kind in ("secret", "configMap"):
                if kind in volume:
                    note(owner, kind, volume[kind])
        for container in pod["spec"]["containers"]:
            for source in container.get("envFrom", []):
                ((kind, reference),) = source.items()
                note(owner, kind, reference)
            for entry in container.get("env", []):
                for kind, reference in entry.get("valueFrom", {}).items():
                    if kind != "fieldRef":
                        note(owner, kind, reference)
    return found


def test_a_removed_secret_value_leaves_the_cluster(chart: Chart) -> None:
    # Kubernetes keeps entries of an earlier `stringData` in `data`.
    secret = chart.render(CHART / "ci" / "production-values.yaml").one("Secret")
    assert set(secret["data"]) == {"redis-url", "api-key", "extra-api-keys"}
    assert "stringData" not in secret
    assert base64.b64decode(secret["data"]["extra-api-keys"]) == b"the-former-key,another"


def test_with_secrets_of_the_user_the_chart_creates_none(chart: Chart) -> None:
    rendering = chart.render(CHART / "ci" / "existing-secrets-values.yaml")
    assert rendering.all("Secret") == []
    keys = {(r["name"], r["key"]) for _, r in references(rendering) if "secret" in r["as"]}
    assert keys == {
        ("redis-access", "url"),
        ("redis-access", "password"),
        ("ojs-keys", "current"),
        ("ojs-keys", "former"),
    }


def test_selectors_select_the_pods_they_are_for(rendering: Rendering) -> None:
    # The pod that hands masters over has the same labels as the job, so the same rules apply.
    labels = {
        name: pod["metadata"]["labels"]
        for name, pod in rendering.pods()
        if not name.endswith("-valkey-leave")
    }

    def selected(selector: dict[str, str]) -> set[str]:
        return {name for name, have in labels.items() if selector.items() <= have.items()}

    for manifest in rendering.manifests:
        spec, name = manifest.get("spec", {}), manifest["metadata"]["name"]
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            assert selected(spec["selector"]["matchLabels"]) == {f"{manifest['kind']}/{name}"}
        elif manifest["kind"] == "Service":
            (owner,) = selected(spec["selector"])
            component = name.removeprefix("jobs-ojs-cluster").removesuffix("-meet")
            component = component.removeprefix("-") or "api"
            assert owner.endswith(f"-{component}")
        elif manifest["kind"] == "PodDisruptionBudget":
            (owner,) = selected(spec["selector"]["matchLabels"])
            assert owner.endswith(name)
        elif manifest["kind"] == "NetworkPolicy":
            (owner,) = selected(spec["podSelector"]["matchLabels"])
            assert owner.partition("/")[2].startswith(name)


def test_common_labels_and_annotations_are_everywhere(chart: Chart) -> None:
    rendering = chart.render(CHART / "ci" / "production-values.yaml")
    for metadata in [
        *(manifest["metadata"] for manifest in rendering.manifests),
        rendering.api["spec"]["template"]["metadata"],
        rendering.scheduler["spec"]["template"]["metadata"],
    ]:
        assert metadata["labels"]["team"] == "jobs"
        assert metadata["annotations"]["example.com/owner"] == "jobs"


def test_a_digest_is_used_instead_of_the_tag(chart: Chart) -> None:
    rendering = chart.render(CHART / "ci" / "production-values.yaml", sets={"image.tag": "other"})
    digest = f"sha256:{'0' * 64}"
    for _, pod in rendering.pods():
        for container in pod["spec"]["containers"]:
            assert container["image"] == f"registry.example/ojs-cluster@{digest}"
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_extra_objects_are_rendered_as_templates(chart: Chart) -> None:
    rendering = chart.render(CHART / "ci" / "existing-secrets-values.yaml")
    assert rendering.one("ConfigMap", "jobs-extra")
    assert rendering.one("ConfigMap", "jobs-ojs-cluster-text")
