"""Access for clients and operators: Service, Ingress, HTTPRoute, hook, notes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ojs_cluster.server.config.load import load
from tests.helm.chart import CHART, Chart, Rendering, container
from tests.helm.test_pods import longest_poll_s

CI = CHART / "ci"


def backend(rendering: Rendering) -> tuple[str, int]:
    """Return the Service of the API, and its port."""
    service = rendering.one("Service", "jobs-ojs-cluster")
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] == "http"
    return service["metadata"]["name"], port["port"]


def test_an_ingress_leads_to_the_service(chart: Chart) -> None:
    rendering = chart.render(CI / "tls-values.yaml")
    ingress = rendering.one("Ingress")
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert (rule["host"], path["path"], path["pathType"]) == ("jobs.example.com", "/", "Prefix")
    assert path["backend"]["service"] == {"name": backend(rendering)[0], "port": {"name": "http"}}
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]
    # Batches are larger than nginx's default limit.
    size = ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"]
    assert size == "16m"


def test_a_route_leads_to_the_service_and_waits_longer_than_a_long_poll(chart: Chart) -> None:
    rendering = chart.render(CI / "bundled-cluster-values.yaml")
    spec = rendering.one("HTTPRoute")["spec"]
    (rule,) = spec["rules"]
    (target,) = rule["backendRefs"]
    assert (target["name"], target["port"]) == backend(rendering)
    assert spec["hostnames"] == ["jobs.example.com"]
    assert spec["parentRefs"] == [{"name": "public", "namespace": "gateways"}]
    seconds = re.fullmatch(r"(\d+)s", rule["timeouts"]["request"])
    assert seconds
    assert int(seconds[1]) > longest_poll_s()
    older = chart.render(
        CI / "bundled-cluster-values.yaml", sets={"httpRoute.requestTimeout": ""}
    ).one("HTTPRoute")
    assert "timeouts" not in older["spec"]["rules"][0]


def test_a_gateway_speaks_tls_to_pods_by_names_that_their_certificate_has(chart: Chart) -> None:
    rendering = chart.render(CI / "gateway-values.yaml")
    policy = rendering.one("BackendTLSPolicy")["spec"]
    certificate = rendering.one("Certificate")["spec"]
    assert policy["validation"]["hostname"] in certificate["dnsNames"]
    assert policy["targetRefs"][0]["name"] == backend(rendering)[0]
    volumes = rendering.api["spec"]["template"]["spec"]["volumes"]
    assert certificate["secretName"] in str(volumes)
    (parent,) = rendering.one("HTTPRoute")["spec"]["parentRefs"]
    assert parent["name"] == rendering.one("Gateway")["metadata"]["name"]
    (listener,) = rendering.one("Gateway")["spec"]["listeners"]
    assert [listener["hostname"]] == rendering.one("HTTPRoute")["spec"]["hostnames"]


def paths_of(ingress: Any) -> list[str]:
    (rule,) = ingress["spec"]["rules"]
    return [path["path"] for path in rule["http"]["paths"]]


def test_the_dashboard_is_off_until_it_is_enabled(chart: Chart) -> None:
    config = chart.render(CI / "tls-values.yaml").one("ConfigMap", "jobs-ojs-cluster")["data"]
    assert not [name for name in config if name.startswith("OJS_UI")]
    assert "/ui/" not in chart.notes(CI / "minimal-values.yaml")


@pytest.mark.parametrize(("mode", "base"), [("full", ""), ("read", "/jobs")])
def test_the_dashboard_is_served_and_reached(chart: Chart, mode: str, base: str) -> None:
    ui = {"ui.enabled": True, "ui.mode": mode, "ui.base": base}
    ui |= {"ui.proxy.userHeader": "X-User", "ui.proxy.roles": "*=viewer"}
    rendering = chart.render(CI / "tls-values.yaml", sets=ui)
    config = rendering.one("ConfigMap", "jobs-ojs-cluster")["data"]
    assert (config["OJS_UI"], config.get("OJS_UI_BASE", "")) == (mode, base)
    proxy = config["OJS_UI_PROXY_USER"], config["OJS_UI_PROXY_ROLES"]
    assert proxy == ("X-User", "*=viewer")
    assert "OJS_UI_PROXY_GROUPS" not in config
    assert paths_of(rendering.one("Ingress")) == ["/"], "which leads to the dashboard, too"
    only_api = {"ingress.hosts": [{"host": "a.example", "paths": [{"path": "/ojs"}]}]}
    narrow = chart.render(CI / "tls-values.yaml", sets={**ui, **only_api})
    assert paths_of(narrow.one("Ingress")) == ["/ojs", f"{base}/ui"]
    without = chart.render(CI / "tls-values.yaml", sets=only_api)
    assert paths_of(without.one("Ingress")) == ["/ojs"]
    routed = chart.render(
        CI / "bundled-cluster-values.yaml", sets={**ui, "httpRoute.pathPrefix": "/ojs"}
    )
    (rule,) = routed.one("HTTPRoute")["spec"]["rules"]
    assert [match["path"]["value"] for match in rule["matches"]] == ["/ojs", f"{base}/ui"]
    notes = chart.notes(CI / "minimal-values.yaml", sets=ui)
    assert f"http://localhost:8080{base}/ui/" in notes


def test_only_the_api_gets_the_secret_of_the_openid_provider(chart: Chart) -> None:
    oidc = {
        "issuer": "https://login.example.com",
        "clientId": "jobs",
        "redirectUrl": "https://jobs.example.com/ui/oidc/callback",
        "roles": "ops=operator,*=viewer",
        "existingSecret": {"name": "login"},
    }
    sets = {"ui.oidc": oidc, "config": {"OJS_UI_OIDC_SCOPES": "openid email groups"}}
    rendering = chart.render(CI / "tls-values.yaml", sets={**sets, "ui.enabled": True})
    given = {each["name"]: each for each in container(rendering.api)["env"]}
    assert given["OJS_UI_OIDC_ISSUER"]["value"] == oidc["issuer"]
    assert given["OJS_UI_OIDC_CLIENT_ID"]["value"] == oidc["clientId"]
    assert given["OJS_UI_OIDC_REDIRECT_URL"]["value"] == oidc["redirectUrl"]
    assert given["OJS_UI_OIDC_ROLES"]["value"] == oidc["roles"]
    secret = given["OJS_UI_OIDC_CLIENT_SECRET"]["valueFrom"]["secretKeyRef"]
    assert secret == {"name": "login", "key": "client-secret"}
    assert "OIDC" not in str(container(rendering.scheduler))
    off = chart.render(CI / "tls-values.yaml", sets=sets)
    assert "OIDC" not in str(container(off.api))


def test_an_api_with_tls_is_called_by_it(chart: Chart) -> None:
    values = CI / "api-tls-values.yaml"
    rendering = chart.render(values)
    name, port = backend(rendering)
    (service,) = rendering.one("Service", name)["spec"]["ports"]
    assert service["appProtocol"] == "https"
    ingress = rendering.one("Ingress")["metadata"]["annotations"]
    assert ingress["nginx.ingress.kubernetes.io/backend-protocol"] == "HTTPS"
    assert "--insecure https://localhost:8080/" in chart.notes(values)
    for ca in ("ca.crt", ""):
        spec = chart.render(values, sets={"tls.caKey": ca}).one("Pod", "-test")["spec"]
        (hook,) = spec["containers"]
        env = {entry["name"]: entry.get("value") for entry in hook["env"]}
        assert env["OJS_URL"] == f"https://{name}.work.svc:{port}"
        assert env.get("OJS_CA") == ((ca and f"/tls/{ca}") or None)
        # Without the private key, which the hook does not need.
        entries = [each["secret"]["items"] for each in spec["volumes"] if each["name"] == "tls"]
        assert entries == ([[{"key": ca, "path": ca}]] if ca else [])


@pytest.mark.parametrize("kind", ["Ingress", "HTTPRoute"])
def test_nothing_is_exposed_by_default(chart: Chart, kind: str) -> None:
    rendering = chart.render(CI / "minimal-values.yaml")
    assert rendering.all(kind) == []
    assert {each["spec"]["type"] for each in rendering.all("Service")} == {"ClusterIP"}


def test_the_pod_of_helm_test_is_deleted_by_the_next_run(rendering: Rendering) -> None:
    hooks = [
        manifest
        for manifest in rendering.manifests
        if manifest["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"
    ]
    assert sorted(hook["kind"] for hook in hooks) == ["ConfigMap", "Pod"]
    weight: dict[str, int] = {}
    for hook in hooks:
        notes = hook["metadata"]["annotations"]
        assert notes["helm.sh/hook"] == "test"
        policy = set(notes["helm.sh/hook-delete-policy"].split(","))
        # A failed pod stays, so that its logs can be read.
        assert policy == {"before-hook-creation", "hook-succeeded"}
        weight[hook["kind"]] = int(notes.get("helm.sh/hook-weight", "0"))
    assert weight["ConfigMap"] < weight["Pod"], "the script has to be there first"
    assert rendering.one("Pod", "-test")["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize(
    ("values", "sets", "entry"),
    [
        ("minimal", {}, ("jobs-ojs-cluster", "api-key")),
        ("existing-secrets", {}, ("ojs-keys", "current")),
        ("minimal", {"auth.apiKey": "", "auth.extraApiKeys": ["k"]},
         ("jobs-ojs-cluster", "extra-api-keys")),
    ],
)  # fmt: skip
def test_the_notes_name_the_next_commands(
    chart: Chart, values: str, sets: dict[str, Any], entry: tuple[str, str]
) -> None:
    notes = chart.notes(CI / f"{values}-values.yaml", sets=sets)
    rendering = chart.render(CI / f"{values}-values.yaml", sets=sets)
    assert f"rollout status deployment/{rendering.api['metadata']['name']}" in notes
    assert "helm test jobs -n work" in notes
    name, port = backend(rendering)
    assert f"port-forward service/{name} 8080:{port}" in notes
    secret, key = entry
    assert (
        f"get secret {secret} -o go-template='{{{{ index .data \"{key}\" | base64decode }}}}'"
        in notes
    )
    assert "WARNING" not in notes


def settings(rendering: Rendering) -> dict[str, str]:
    """Return the variables of the ConfigMap."""
    (found,) = (m["data"] for m in rendering.all("ConfigMap") if "OJS_PORT" in m.get("data", {}))
    return dict(found)


def test_without_keys_the_names_of_the_release_are_allowed(chart: Chart) -> None:
    values = CI / "bundled-cluster-values.yaml"
    keyless = {"auth.apiKey": "", "auth.allowInsecure": True}
    rendering = chart.render(values, sets=keyless)
    name, _ = backend(rendering)
    allowed = settings(rendering)["OJS_ALLOWED_HOSTS"]
    assert allowed.split(",") == [f"{name}.work", "jobs.example.com"]
    assert load({"OJS_ALLOWED_HOSTS": allowed}).http.allowed_hosts
    own = chart.render(values, sets={**keyless, "config.OJS_ALLOWED_HOSTS": "a.example"})
    assert settings(own)["OJS_ALLOWED_HOSTS"] == "a.example"
    assert "OJS_ALLOWED_HOSTS" not in settings(chart.render(values))


def test_the_notes_warn_about_trial_settings(chart: Chart) -> None:
    values = CI / "bundled-cluster-values.yaml"
    notes = chart.notes(values, sets={"auth.apiKey": "", "auth.allowInsecure": True})
    assert "WARNING: auth.allowInsecure" in notes
    assert "WARNING: the bundled Valkey is for trials" in notes
    assert "jobs are lost when a master and its replicas restart at the same time" in notes
    assert "get secret" not in notes


def test_notes_name_no_missing_entry_of_a_secret(chart: Chart) -> None:
    sets = {"auth.apiKey": "", "auth.keysFile.existingSecret": "scoped-keys"}
    notes = chart.notes(CI / "minimal-values.yaml", sets=sets)
    assert "scoped-keys" in notes
    assert "extra-api-keys" not in notes
