"""NetworkPolicies allow exactly what is needed: whole policies are compared, not single fields."""

from __future__ import annotations

from typing import Any

from tests.helm.chart import CHART, Chart, Rendering

DNS = (
    [("UDP", 53), ("TCP", 53)],
    [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}],
)

Rules = list[tuple[list[tuple[str, Any]], Any]]


def rendered(chart: Chart, values: str, **sets: Any) -> Rendering:
    return chart.render(
        CHART / "ci" / f"{values}-values.yaml",
        sets={name.replace("__", "."): value for name, value in sets.items()},
    )


def policy(rendering: Rendering, component: str) -> tuple[Rules, Rules]:
    """Return allowed ingress and egress as pairs of ports and peers; None for any peer."""
    spec = rendering.one("NetworkPolicy", f"-{component}")["spec"]
    # What is not named here is not restricted at all.
    assert spec["policyTypes"] == ["Ingress", "Egress"]

    def rules(direction: str, peers: str) -> Rules:
        return [
            ([(p["protocol"], p["port"]) for p in rule["ports"]], rule.get(peers))
            for rule in spec[direction]
        ]

    return rules("ingress", "from"), rules("egress", "to")


def pods(component: str) -> dict[str, Any]:
    """Return a peer: our own pods of a component."""
    labels = {"name": "ojs-cluster", "instance": "jobs", "component": component}
    return {
        "podSelector": {
            "matchLabels": {f"app.kubernetes.io/{name}": value for name, value in labels.items()}
        }
    }


def test_there_is_no_policy_by_default(chart: Chart) -> None:
    assert rendered(chart, "minimal").all("NetworkPolicy") == []


def test_production_allows_what_is_configured_and_nothing_else(chart: Chart) -> None:
    rendering = rendered(chart, "production")
    front, monitoring = (
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
        for name in ("ingress-nginx", "monitoring")
    )
    out = [
        DNS,
        ([("TCP", 6379), ("TCP", 6380)], [{"ipBlock": {"cidr": "10.20.0.0/16"}}]),
        ([("TCP", 4317)], [monitoring]),
    ]
    callers = [([("TCP", "http")], [front, pods("test")]), ([("TCP", "http")], [monitoring])]
    assert policy(rendering, "api") == (callers, out)
    # Traces are the API's: schedulers send none.
    assert policy(rendering, "scheduler") == ([([("TCP", "metrics")], [monitoring])], out[:-1])
    assert len(rendering.all("NetworkPolicy")) == 2


def test_ports_of_redis_come_from_its_url(chart: Chart) -> None:
    for url, ports in (
        ("redis://r", [6379]),
        ("redis://u:p,a:1@r:7000/0?x=1:2", [7000]),
        ("redis://r1:7000,r2:7001,r3", [7000, 7001, 6379]),
        ("redis://u:p@r1:7000,redis://r2:7001", [7000, 7001]),
        ("redis://u:p@r1:7000,redis://u:p@r2:7001", [7000, 7001]),
        ("rediss://:p,q@r1:7000/?a=b,rediss://:p,q@r2:7001,r3/0", [7000, 7001, 6379]),
        ("rediss://[::1]:7000", [7000]),
    ):
        rendering = rendered(chart, "minimal", redis__url=url, networkPolicy__enabled=True)
        (_, (redis, peers)) = policy(rendering, "api")[1]
        assert redis == [("TCP", port) for port in ports], url
        assert peers is None


def test_configured_ports_have_precedence(chart: Chart) -> None:
    rendering = rendered(chart, "existing-secrets")
    (_, (redis, _)) = policy(rendering, "scheduler")[1]
    assert redis == [("TCP", 7000), ("TCP", 7001)]


def test_traces_go_out_when_an_endpoint_is_configured(chart: Chart) -> None:
    for url, port in (("https://t.example", 443), ("http://t/x", 80), ("t:4317", 4317)):
        rendering = rendered(
            chart, "minimal", networkPolicy__enabled=True, config__OJS_OTEL_ENDPOINT=url
        )
        assert policy(rendering, "api")[1][2] == ([("TCP", port)], None)


def test_the_bundled_cluster_is_reached_by_its_users_only(chart: Chart) -> None:
    rendering = rendered(chart, "bundled-cluster")
    assert policy(rendering, "api")[1] == [DNS, ([("TCP", 6379)], [pods("valkey")])]
    users = ["api", "scheduler", "valkey", "valkey-form"]
    assert policy(rendering, "valkey") == (
        [
            ([("TCP", 6379)], [pods(user) for user in users]),
            ([("TCP", 16379)], [pods("valkey")]),
        ],
        [DNS, ([("TCP", 6379), ("TCP", 16379)], [pods("valkey")])],
    )
    assert policy(rendering, "valkey-form") == ([], [DNS, ([("TCP", 6379)], [pods("valkey")])])
    named = rendered(chart, "bundled-cluster", networkPolicy__redisPorts=[7000])
    assert policy(named, "api") == policy(rendering, "api"), "ports are for a Redis of one's own"
    form = rendering.one("Job")["spec"]["template"]["metadata"]["labels"]
    assert pods("valkey-form")["podSelector"]["matchLabels"].items() <= form.items()


def test_more_rules_and_other_ports_of_dns_are_for_everybody(chart: Chart) -> None:
    more = {
        "ports": [{"port": 443, "protocol": "TCP"}],
        "to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}],
    }
    rendering = rendered(
        chart,
        "bundled-cluster",
        networkPolicy__dnsPorts=[53, 5353],
        networkPolicy__extraEgress=[more],
    )
    for component in ("api", "scheduler", "valkey", "valkey-form"):
        dns, *_, last = policy(rendering, component)[1]
        assert dns == ([(name, port) for port in (53, 5353) for name in ("UDP", "TCP")], DNS[1])
        assert last == ([("TCP", 443)], more["to"])


def test_a_scheduler_accepts_only_scrapes(chart: Chart) -> None:
    assert policy(rendered(chart, "tls"), "scheduler")[0] == []
    assert policy(rendered(chart, "keda"), "scheduler")[0] == [([("TCP", "metrics")], None)]


def test_a_rule_for_scrapers_does_not_open_the_api_to_everybody(chart: Chart) -> None:
    rendering = rendered(
        chart,
        "keda",
        networkPolicy__apiFrom=[{"podSelector": {"matchLabels": {"app": "front"}}}],
        tests__enabled=False,
    )
    assert policy(rendering, "api")[0] == [
        ([("TCP", "http")], [{"podSelector": {"matchLabels": {"app": "front"}}}])
    ]
