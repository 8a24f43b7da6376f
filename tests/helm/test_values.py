"""Wrong values fail at once, with a message that names them; the schema knows every variable."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from ojs_cluster.server.config.all_variables import VARIABLES
from tests.helm.chart import CHART, Chart, Refused
from tests.helm.values_table import DERIVED

MINIMAL = CHART / "ci" / "minimal-values.yaml"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"api.replica": 3}, "at '/api': additional properties 'replica' not allowed"),
        ({"replicas": 3}, "additional properties 'replicas' not allowed"),
        ({"api.replicas": "3"}, "at '/api/replicas': got string, want integer"),
        ({"api.workers": 0}, "at '/api/workers'"),
        ({"api.port": 70000}, "at '/api/port'"),
        ({"api.drain.preStopSeconds": 0}, "at '/api/drain/preStopSeconds'"),
        ({"redis.url": "http://r"}, "at '/redis/url': 'http://r' does not match"),
        ({"config": {"OJS_SHARD": 1}}, "at '/config': additional properties 'OJS_SHARD'"),
        ({"config": {"OJS_API_KEY": "k"}}, "at '/config': additional properties 'OJS_API_KEY'"),
        ({"config": {"OJS_SHARDS": 1.5}}, "at '/config/OJS_SHARDS'"),
        ({"api.pdb.maxUnavailable": 0}, "at '/api/pdb/maxUnavailable'"),
        ({"image.digest": "latest"}, "at '/image/digest'"),
        ({"image.pullPolicy": "always"}, "at '/image/pullPolicy': value must be one of"),
        ({"valkey.masters": 2}, "at '/valkey/masters'"),
        ({"valkey.antiAffinity": "yes"}, "at '/valkey/antiAffinity'"),
        ({"auth.apiKey": "with space"}, "at '/auth/apiKey'"),
        ({"ingress.hosts": [{"hots": "x"}]}, "at '/ingress/hosts/0'"),
        ({"redis.url": ""}, "No Redis: set redis.url"),
        ({"auth.apiKey": ""}, "No key: set auth.apiKey"),
        ({"valkey.enabled": True}, "redis.url and valkey.enabled exclude each other"),
        (
            {"redis.url": "", "valkey.enabled": True, "redis.username": "u"},
            "has no ACL users; its TLS is valkey.tls",
        ),
        (
            {"redis.url": "", "valkey.enabled": True, "redis.tls.existingSecret": "s"},
            "has no ACL users; its TLS is valkey.tls",
        ),
        ({"httpRoute.requestTimeout": "60"}, "at '/httpRoute/requestTimeout'"),
        ({"auth.existingSecret.name": "s"}, "auth.existingSecret.name excludes auth.apiKey"),
        ({"redis.existingSecret.name": "s"}, "set urlKey or passwordKey too"),
        ({"redis.existingSecret.passwordKey": "p"}, "set redis.existingSecret.name too"),
        ({"redis.tls.existingSecret": "s"}, "begins with rediss://"),
        ({"redis.tls.certKey": "tls.crt"}, "certKey and redis.tls.keyKey must be set together"),
        (
            {"redis.existingSecret": {"name": "s", "urlKey": "u"}},
            "only one of them can be the address of Redis",
        ),
        (
            {"redis.password": "p", "redis.existingSecret": {"name": "s", "passwordKey": "p"}},
            "exclude each other",
        ),
        (
            {"api.autoscaling.enabled": True, "api.keda.enabled": True},
            "api.autoscaling and api.keda exclude each other",
        ),
        ({"api.autoscaling.minReplicas": 99}, "is more than maxReplicas"),
        ({"api.keda.enabled": True}, "api.keda.serverAddress must be the address of Prometheus"),
        (
            {"api.keda": {"enabled": True, "cpuUtilization": 0, "requestsInFlight": 0}},
            "api.keda has no trigger",
        ),
        (
            {
                "workers.scaling": {
                    "serverAddress": "http://p:9090",
                    "deployments": [{"name": "mail", "queues": ["mail"], "minReplicas": 11}],
                }
            },
            "minReplicas of mail (11) is more than maxReplicas (10)",
        ),
        ({"metrics.serviceMonitor.existingSecret.name": "s"}, "name and key must be set together"),
        ({"metrics.serviceMonitor.interval": "30"}, "at '/metrics/serviceMonitor/interval'"),
        (
            {
                "metrics.serviceMonitor.enabled": True,
                "auth.apiKey": "",
                "auth.extraApiKeys": ["a", "b"],
            },
            "Prometheus needs a key for /metrics",
        ),
        ({"ui.mode": "off"}, "at '/ui/mode'"),
        ({"ui.base": "jobs"}, "at '/ui/base'"),
        ({"ui.oidc.issuer": "http://login.example.com"}, "at '/ui/oidc/issuer'"),
        ({"ui.oidc.issuer": "https://login.example.com"}, "set clientId, redirectUrl, roles and"),
        ({"ingress.enabled": True}, "ingress.hosts must have at least one host"),
        ({"httpRoute.enabled": True}, "httpRoute.parentRefs must have at least one Gateway"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_by_name(chart: Chart, sets: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as caught:
        chart.render(MINIMAL, sets=sets)
    assert message in str(caught.value)


def test_two_values_are_all_that_must_be_set(chart: Chart) -> None:
    for where in ({"redis.url": "redis://r"}, {"valkey.enabled": True}):
        assert chart.render(sets={**where, "auth.apiKey": "k"}).api


def test_the_commands_of_both_readmes_install(chart: Chart) -> None:
    for readme in (CHART.parent.parent / "README.md", CHART / "README.md"):
        text = readme.read_text().replace("\\\n", " ")
        commands = re.findall(r"^helm install jobs helm/ojs-cluster (.*)$", text, re.MULTILINE)
        assert commands, readme
        for options in commands:
            assert chart.run("template", "jobs", str(CHART), *options.split())


def test_config_takes_exactly_the_variables_that_nothing_else_sets() -> None:
    known = {variable.name for variable in VARIABLES}
    assert known >= DERIVED
    named = set(SCHEMA["properties"]["config"]["properties"])
    assert named == known - DERIVED, "run: make chart-docs"


def test_no_secret_can_be_put_into_config() -> None:
    assert {variable.name for variable in VARIABLES if variable.secret} <= DERIVED


def test_the_schema_refuses_unknown_keys_everywhere_and_knows_every_value() -> None:
    def compare(schema: Any, values: Any, path: str) -> None:
        if "$ref" in schema:
            schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
        if "properties" in schema and isinstance(values, dict):
            assert schema["additionalProperties"] is False, path
            if path != ".config":
                known = {n for n, each in schema["properties"].items() if "deprecated" not in each}
                assert set(values) == known - {"global"}, path
            for name, value in values.items():
                compare(schema["properties"][name], value, f"{path}.{name}")

    compare(SCHEMA, VALUES, "")


def test_numbers_and_switches_of_config_reach_the_server_as_written(chart: Chart) -> None:
    config = {"OJS_MAX_QUEUES": 10_000_000, "OJS_TEST_HOOKS": True, "OJS_SHARDS": "128"}
    rendering = chart.render(MINIMAL, sets={"config": config})
    environment = rendering.environment(rendering.api)
    assert environment["OJS_MAX_QUEUES"] == "10000000"
    assert environment["OJS_TEST_HOOKS"] == "true"
    assert environment["OJS_SHARDS"] == "128"


def test_empty_values_are_the_defaults(chart: Chart) -> None:
    empty = {"config", "commonLabels", "commonAnnotations", "extraEnv"}
    found = chart.render(MINIMAL, sets=dict.fromkeys(empty))
    assert found.manifests == chart.render(MINIMAL).manifests


def test_keda_needs_no_prometheus_to_scale_by_cpu(chart: Chart) -> None:
    keda = {"enabled": True, "requestsInFlight": 0}
    rendering = chart.render(MINIMAL, sets={"api.keda": keda})
    (trigger,) = rendering.one("ScaledObject", "-api")["spec"]["triggers"]
    assert trigger["type"] == "cpu"


def test_workers_may_end_as_soon_as_no_job_is_left(chart: Chart) -> None:
    mail = {"name": "mail", "queues": ["mail"], "cooldownPeriod": 0}
    sets = {
        "workers.scaling": {"serverAddress": "http://p:9090", "deployments": [mail]},
        "api.keda.enabled": False,
    }
    rendering = chart.render(MINIMAL, sets=sets)
    assert rendering.one("ScaledObject", "mail")["spec"]["cooldownPeriod"] == 0
