"""Alerts, dashboard and scaling use metrics that exist, in valid PromQL."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from promql_parser import parse

from tests.helm.chart import CHART, Chart, Rendering

OURS = re.compile(r"\bojs_[a-z0-9_]+")
DOCS = (CHART.parent.parent / "docs" / "metrics.md").read_text()
MONITORING = {"kubernetes.io/metadata.name": "monitoring"}
DOCUMENTED = set(re.findall(r"^\| `(ojs_\w+)` \|", DOCS, re.MULTILINE))


@pytest.fixture(scope="module")
def production(chart: Chart) -> Rendering:
    return chart.render(CHART / "ci" / "production-values.yaml")


@pytest.fixture(scope="module")
def observed(chart: Chart) -> Rendering:
    return chart.render(CHART / "ci" / "observed-cluster-values.yaml")


def rules(rendering: Rendering) -> list[dict[str, Any]]:
    (group,) = rendering.one("PrometheusRule")["spec"]["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def dashboard(rendering: Rendering) -> dict[str, Any]:
    text = rendering.one("ConfigMap", "-dashboard")["data"]["ojs-cluster.json"]
    found: dict[str, Any] = json.loads(text)
    return found


def queries(rendering: Rendering) -> Iterator[str]:
    """Return every query of the chart, with Grafana's variables replaced."""
    yield from (rule["expr"] for rule in rules(rendering))
    for panel in dashboard(rendering)["panels"]:
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "1m")
    for annotation in dashboard(rendering)["annotations"]["list"]:
        yield annotation["expr"]


def names(query: str) -> set[str]:
    """Return the metrics in a query, by their documented names."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in OURS.findall(query)}


def test_alerts_omit_what_old_versions_of_prometheus_do_not_know(chart: Chart) -> None:
    values = CHART / "ci" / "observed-cluster-values.yaml"
    kept = [rule.get("keep_firing_for") for rule in rules(chart.render(values))]
    assert set(kept) == {None, "2m"}
    without = chart.render(values, sets={"metrics.prometheusRule.keepFiringFor": ""})
    assert not [rule for rule in rules(without) if "keep_firing_for" in rule]


def test_queries_are_promql_and_name_documented_metrics_only(
    chart: Chart, production: Rendering
) -> None:
    scaled = chart.render(CHART / "ci" / "keda-values.yaml").all("ScaledObject")
    triggers = [
        trigger["metadata"]["query"]
        for each in scaled
        for trigger in each["spec"]["triggers"]
        if trigger["type"] == "prometheus"
    ]
    assert len(triggers) == 4
    asked = [*queries(production), *triggers]
    assert len(asked) > 30
    for query in asked:
        parse(query)  # raises ValueError for what Prometheus would refuse
        assert names(query), query
        assert names(query) <= DOCUMENTED, query
    # A metrics adapter serves a recorded rule under a name without colons.
    hpa = production.one("HorizontalPodAutoscaler")["spec"]["metrics"][1]
    recorded = {rule["record"].replace(":", "_") for rule in rules(production) if "record" in rule}
    assert hpa["external"]["metric"]["name"] in recorded
    variables = json.dumps(dashboard(production)["templating"])
    assert names(variables) <= DOCUMENTED


def test_cluster_metrics_are_never_summed_over_targets(production: Rendering) -> None:
    rows = re.findall(r"^\| `(ojs_\w+)` \|.*?\| cluster \|", DOCS, re.MULTILINE)
    assert len(rows) > 10
    one = "|".join(f"{row}(_bucket|_sum|_count)?" for row in rows)
    for query in queries(production):
        # Every target reports the same value, so a query first takes one of them.
        for found in re.finditer(
            rf"([a-z ]+(?:by \([a-z, ]+\) )?)\((?:(?:rate|delta)\()?(?:{one})\b", query
        ):
            assert found[1].strip().startswith("max"), query


def test_alerts_select_this_release_and_describe_what_to_do(production: Rendering) -> None:
    alerts = [rule for rule in rules(production) if "alert" in rule]
    assert len(alerts) >= 10
    for alert in alerts:
        series = OURS.findall(alert["expr"])
        ours = alert["expr"].count('namespace="work",job=~"jobs-ojs-cluster(-scheduler)?"')
        assert ours == len(series), alert["expr"]
        assert alert["labels"]["severity"] in ("critical", "warning", "{{ $labels.severity }}")
        assert set(alert["annotations"]) == {"summary", "description"}
        assert alert["for"]
    assert rules(production)[-1]["record"] == "jobs:available"


def test_the_guide_names_every_rule(observed: Rendering) -> None:
    guide = (CHART.parent.parent / "docs" / "operations.md").read_text()
    table = guide.partition("## What to alert on")[2].partition("## Security")[0]
    named = re.findall(r"\| `(Ojs\w+)` \|$", table, re.MULTILINE)
    alerts = [rule["alert"] for rule in rules(observed) if "alert" in rule]
    assert list(dict.fromkeys(named)) == alerts


def test_nodes_of_the_bundled_cluster_are_scraped_and_watched(observed: Rendering) -> None:
    nodes = observed.one("StatefulSet")["spec"]["template"]
    (exporter,) = (each for each in nodes["spec"]["containers"] if each["name"] == "exporter")
    (port,) = exporter["ports"]
    spec = observed.one("PodMonitor")["spec"]
    assert spec["selector"]["matchLabels"].items() <= nodes["metadata"]["labels"].items()
    assert [each["port"] for each in spec["podMetricsEndpoints"]] == [port["name"]]
    (password,) = (each for each in exporter["env"] if each["name"] == "REDIS_PASSWORD")
    assert observed.secret(password["valueFrom"]["secretKeyRef"]) == "not-a-real-password"
    scrapers = [
        rule["from"]
        for rule in observed.one("NetworkPolicy", "-valkey")["spec"]["ingress"]
        if {"port": "metrics", "protocol": "TCP"} in rule["ports"]
    ]
    assert scrapers == [[{"namespaceSelector": {"matchLabels": MONITORING}}]]
    watched = [rule for rule in rules(observed) if "redis_" in rule.get("expr", "")]
    ours = [rule for rule in watched if rule.get("alert", "").startswith("OjsValkey")]
    assert len(ours) == 4
    for rule in ours:
        parse(rule["expr"])
        series = re.findall(r"redis_\w+", rule["expr"])
        picked = rule["expr"].count('{namespace="work",pod=~"jobs-ojs-cluster-valkey-[0-9]+"}')
        assert picked == len(series), rule["expr"]


def test_thresholds_are_values(chart: Chart) -> None:
    sets = {
        "metrics.prometheusRule.oldestJobSeconds": 77,
        "metrics.prometheusRule.waitSeconds": 66,
        "metrics.prometheusRule.errorRatio": 0.07,
        "metrics.prometheusRule.failureRatio": 0.77,
        "metrics.prometheusRule.valkeyMemoryRatio": 0.66,
        "metrics.prometheusRule.valkeyLagSeconds": 55,
    }
    rendering = chart.render(CHART / "ci" / "observed-cluster-values.yaml", sets=sets)
    by_name = {rule.get("alert"): rule["expr"] for rule in rules(rendering)}
    assert "> 77)" in by_name["OjsJobsWaitTooLong"]
    assert by_name["OjsJobsStartLate"].endswith("> 66")
    assert by_name["OjsValkeyMemory"].endswith("> 0.66")
    # Without `valkey.maxmemory` the limit is 0, and any use would be above any share.
    assert "(redis_memory_max_bytes{" in by_name["OjsValkeyMemory"]
    assert "> 0)) >" in by_name["OjsValkeyMemory"]
    assert by_name["OjsValkeyReplication"].endswith("> 55")
    assert by_name["OjsErrors"].endswith("> 0.07")
    assert by_name["OjsAttemptsFail"].endswith("> 0.77")


def test_prometheus_finds_the_services_and_has_a_key(chart: Chart) -> None:
    for values, credentials in (
        ("production", {"name": "jobs-ojs-cluster", "key": "api-key"}),
        ("existing-secrets", {"name": "scraper", "key": "token"}),
        ("keda", None),  # metrics.open
    ):
        rendering = chart.render(CHART / "ci" / f"{values}-values.yaml")
        for component, port in (("api", "http"), ("scheduler", "metrics")):
            spec = rendering.one("ServiceMonitor", f"-{component}")["spec"]
            wanted = spec["selector"]["matchLabels"].items()
            (service,) = (
                each
                for each in rendering.all("Service")
                if wanted <= each["metadata"]["labels"].items()
            )
            (endpoint,) = spec["endpoints"]
            assert endpoint["port"] == port == service["spec"]["ports"][0]["name"]
            given = endpoint.get("authorization", {}).get("credentials")
            assert given == credentials, values


def test_prometheus_speaks_tls_to_an_api_that_does(chart: Chart) -> None:
    values = CHART / "ci" / "api-tls-values.yaml"
    for ca, tls in (
        (
            "ca.crt",
            {
                "ca": {"secret": {"name": "jobs-certificate", "key": "ca.crt"}},
                "serverName": "jobs-ojs-cluster.work.svc",
            },
        ),
        ("", {"insecureSkipVerify": True}),
    ):
        rendering = chart.render(values, sets={"tls.caKey": ca})
        (api,) = rendering.one("ServiceMonitor", "-api")["spec"]["endpoints"]
        assert (api["scheme"], api["tlsConfig"]) == ("https", tls)
        (scheduler,) = rendering.one("ServiceMonitor", "-scheduler")["spec"]["endpoints"]
        assert not {"scheme", "tlsConfig"} & scheduler.keys()


def test_each_release_has_its_own_dashboard(chart: Chart) -> None:
    values = CHART / "ci" / "production-values.yaml"
    ours, other = (dashboard(chart.render(values, release=name)) for name in ("jobs", "more"))
    assert ours["uid"] != other["uid"]
    assert len(ours["uid"]) <= 40, "Grafana takes no longer one"
    assert ours["title"] == "ojs-cluster (work/jobs)"


def test_the_dashboard_fits_on_its_grid(production: Rendering) -> None:
    seen: set[tuple[int, int]] = set()
    for panel in dashboard(production)["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & seen, panel["title"]
        seen |= cells
    labels = production.one("ConfigMap", "-dashboard")["metadata"]["labels"]
    assert labels["grafana_dashboard"] == "1"
