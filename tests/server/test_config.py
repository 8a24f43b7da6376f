"""Configuration: variables reach their fields, mistakes are reported, no secret is shown."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from ojs_cluster.core.config import parsers
from ojs_cluster.core.config.variable import Variable
from ojs_cluster.core.partitions import DRAIN_MS
from ojs_cluster.core.payload_limits import PayloadLimits
from ojs_cluster.http.request_body.limits import BodyLimits
from ojs_cluster.http.settings import HttpSettings
from ojs_cluster.server.config.all_variables import SECTIONS, VARIABLES
from ojs_cluster.server.config.load import ConfigError, Settings, load, report, shown_variables
from ojs_cluster.server.config.parsers import usable_cpus
from ojs_cluster.store.engine import aliases
from ojs_cluster.store.engine.unique import unique
from ojs_cluster.store.operators.archive import import_archive
from ojs_scheduler.settings import SchedulerSettings
from tests.support.certificates import OPENSSL, make_certificates

SECRET = "s3cret-value"


def problems(environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(environ)
    return caught.value.problems


def test_empty_environment_gives_the_defaults() -> None:
    settings = load({})
    assert settings.listen.port == 8080
    assert settings.redis.client().nodes[0].port == 6379
    assert settings.shards == 64
    assert settings.listen.shutdown_timeout_s == 30
    assert settings.access.keys == ()


def test_defaults_agree_with_those_of_the_lower_layers() -> None:
    settings = load({})
    assert settings.store == type(settings.store)()
    assert settings.scheduler == SchedulerSettings()
    assert settings.bodies == BodyLimits()
    assert settings.limits == PayloadLimits()
    assert settings.http == HttpSettings()


def test_empty_and_blank_values_count_as_unset() -> None:
    assert load({variable.name: " " for variable in VARIABLES}) == load({})


def test_every_variable_is_declared_once_and_every_section_is_a_field_of_the_settings() -> None:
    names = [variable.name for variable in VARIABLES]
    assert len(names) == len(set(names))
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert fields == {section.name for section in SECTIONS} | {"warnings"}


def limits_of(variable: Variable) -> tuple[str, ...]:
    """The lowest and the highest value that a variable accepts, by its own messages."""
    for wrong in ("?", "99999999h"):
        try:
            variable.parse(wrong)
        except ValueError as refusal:
            limits = re.search(r" from (-?[\d.]+(?:ms|s)?) to (-?[\d.]+(?:ms|s)?)", str(refusal))
            if limits:
                return limits.groups()
    return ()


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: str(variable.name))
def test_a_value_at_a_limit_is_accepted_or_refused_in_one_line(variable: Variable) -> None:
    for text in limits_of(variable):
        # Any other exception would be a traceback at the start.
        with suppress(ConfigError):
            load({variable.name: text})


def test_limits_are_found_in_messages() -> None:
    found = {variable.name: limits_of(variable) for variable in VARIABLES}
    assert found["OJS_MAX_JSON_DEPTH"] == ("4", "500")
    assert len([name for name, limits in found.items() if limits]) > 55


def test_all_wrong_values_are_reported_each_with_what_is_accepted() -> None:
    found = problems(
        {
            "OJS_PORT": "80a",
            "OJS_WORKERS": "none",
            "OJS_READ_TIMEOUT": "30",
            "OJS_TEST_HOOKS": "maybe",
            "OJS_LOG_FORMAT": "xml",
            "OJS_REDIS_TLS_CA": "/no/such/file",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://x",
        }
    )
    assert len(found) == 7
    assert "OJS_PORT='80a': expected a whole number from 1 to 65535" in found
    assert any(line.startswith("OJS_READ_TIMEOUT='30': expected a duration") for line in found)


def test_host_names_are_read_in_lower_case() -> None:
    text = "Jobs.Example.com, *.corp.example,api"
    found = load({"OJS_ALLOWED_HOSTS": text}).http.allowed_hosts
    assert found == ("jobs.example.com", "*.corp.example", "api")
    assert load({}).http.allowed_hosts == ()
    for wrong in ("https://a.example", "a.example:80", "*", "*.", "a..b", "[::1]", "a*.b", "-a"):
        (problem,) = problems({"OJS_ALLOWED_HOSTS": wrong})
        assert "names such as jobs.example.com" in problem, wrong


def test_origins_of_pages_are_as_browsers_send_them() -> None:
    text = "https://admin.example.com, http://localhost:5173,http://[::1]:80"
    found = load({"OJS_CORS_ORIGINS": text}).http.cors_origins
    assert found == ("https://admin.example.com", "http://localhost:5173", "http://[::1]:80")
    assert load({}).http.cors_origins == ()


@pytest.mark.parametrize(
    "text", ["*", "null", "admin.example.com", "https://a/", "https://A.example", "https://*.a"]
)
def test_an_origin_that_no_browser_sends_is_refused(text: str) -> None:
    (problem,) = problems({"OJS_CORS_ORIGINS": text})
    assert "origins such as https://admin.example.com" in problem


def test_trusted_proxies_are_addresses_and_networks() -> None:
    text = "10.0.0.0/8, 192.0.2.7,fd00::/8"
    found = load({"OJS_TRUSTED_PROXIES": text}).listen.trusted_proxies
    assert [str(network) for network in found] == ["10.0.0.0/8", "192.0.2.7/32", "fd00::/8"]
    for wrong in ("proxy", "10.0.0.1/8", "10.0.0.0/8 10.1.0.0/16", "0.0.0.0/0", "::/0", ","):
        [line] = problems({"OJS_TRUSTED_PROXIES": wrong})
        assert line.startswith(f"OJS_TRUSTED_PROXIES='{wrong}': expected at most 100 addresses or")
    assert problems({"OJS_TRUSTED_PROXIES": ",".join(["192.0.2.7"] * 101)})


def test_a_retention_shorter_than_a_repeated_call_is_refused() -> None:
    found = problems({"OJS_RETENTION_COMPLETED": "1s", "OJS_RETENTION_CANCELLED": "29s"})
    assert [line.partition(":")[0] for line in found] == [
        "OJS_RETENTION_COMPLETED",
        "OJS_RETENTION_CANCELLED",
    ]
    assert "at least 30s" in found[0]
    short = {"OJS_REDIS_CALL_TIMEOUT": "2s", "OJS_RETENTION_COMPLETED": "6s"}
    assert load(short).store.retention_completed_ms == 6000
    assert len(problems({**short, "OJS_RETENTION_DISCARDED": "5999ms"})) == 1


def test_a_call_that_outlasts_the_claims_of_its_request_is_refused() -> None:
    claims_ms = min(aliases.CLAIM_MS, unique.CLAIM_MS, import_archive._CLAIM_MS, DRAIN_MS)
    longest_s = claims_ms // 1000

    assert load({"OJS_REDIS_CALL_TIMEOUT": f"{longest_s}s"}).redis.call_timeout_s == longest_s
    [line] = problems({"OJS_REDIS_CALL_TIMEOUT": f"{longest_s + 1}s"})
    assert line.startswith("OJS_REDIS_CALL_TIMEOUT='31s': expected")


def test_a_batch_that_no_script_could_take_is_refused_by_name() -> None:
    with pytest.raises(ConfigError) as raised:
        load({"OJS_MAX_BATCH": "10001"})
    assert ["OJS_MAX_BATCH" in problem for problem in raised.value.problems] == [True]


def test_wrong_secret_is_reported_without_its_value() -> None:
    found = problems(
        {
            "OJS_API_KEY": f"{SECRET} with space",
            "OJS_API_KEYS": f"fine,{SECRET} {SECRET}",
            "REDIS_URL": f"http://:{SECRET}@host",
        }
    )
    assert len(found) == 3
    assert SECRET not in "\n".join(found)


def test_secrets_are_in_no_representation() -> None:
    environ = {
        "OJS_API_KEY": SECRET,
        "OJS_API_KEYS": SECRET + "2",
        "OJS_REDIS_PASSWORD": SECRET,
        "REDIS_URL": f"redis://:{SECRET}@localhost",
    }
    assert SECRET not in repr(load(environ))
    assert SECRET not in report(environ)
    environ["OJS_OTEL_ENDPOINT"] = f"http://collector/v1?token={SECRET}"
    environ["OJS_UI_OIDC_CLIENT_SECRET"] = SECRET
    environ["OJS_UI_OIDC_CLIENT_SECRET_FILE"] = "/run/secrets/oidc"
    shown = {variable.name: variable for variable in shown_variables(environ)}
    assert SECRET not in repr(shown)
    hidden = {name for name, variable in shown.items() if variable.value is None}
    assert hidden == {*environ}
    assert all(shown[name].is_set for name in hidden)
    port = shown["OJS_PORT"]
    assert (port.value, port.default, port.is_set) == ("8080", "8080", False)


def test_secrets_to_mask_include_the_one_inside_the_url() -> None:
    environ = {"REDIS_URL": f"redis://:{SECRET}@localhost", "OJS_API_KEYS": "one-key,two-key"}
    assert load(environ).secrets == {SECRET, "one-key", "two-key"}


def test_secrets_to_mask_are_all_of_the_url_as_written_and_as_meant() -> None:
    url = "rediss://me:p%40ss%20word@a:1,b:2/?ssl_password=key%252Bphrase&ssl_cert_reqs=none"
    secrets = load({"REDIS_URL": url, "OJS_REDIS_PASSWORD": "another"}).secrets
    assert secrets >= {"another", "p%40ss%20word", "p@ss word", "key%252Bphrase", "key%2Bphrase"}
    assert not secrets & {"me", "none", "a", ""}
    client = load({"REDIS_URL": url}).redis.client()
    assert client.tls is not None
    assert {client.password, client.tls.key_password} <= secrets

    twice = "redis://:pass-one@a:1,redis://:pass-one@b:2/?password=pass-two"
    assert load({"REDIS_URL": twice}).secrets == {"pass-one", "pass-two"}


@pytest.mark.parametrize("name", ["OJS_OTEL_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])
@pytest.mark.parametrize("url", ["http://me:{}@host:4318", "me:{}@host:4318", "https://{}@host/x"])
def test_an_endpoint_that_is_shown_holds_no_password(name: str, url: str) -> None:
    environ = {name: url.format(SECRET)}
    (problem,) = problems(environ)
    assert "without user and password" in problem
    assert SECRET not in problem + report(environ)


def test_serving_needs_a_key_or_leave_to_serve_without() -> None:
    problem = load({}).access.problem
    assert problem is not None
    assert "OJS_API_KEY" in problem
    assert "OJS_ALLOW_INSECURE_NO_AUTH" in problem
    assert load({"OJS_API_KEY": "k"}).access.problem is None
    assert load({"OJS_ALLOW_INSECURE_NO_AUTH": "true"}).access.problem is None


def test_keys_can_be_rotated() -> None:
    access = load({"OJS_API_KEY": "old", "OJS_API_KEYS": "old, new"}).access
    assert access.keys == ("old", "new")


def test_tls_files_need_the_tls_scheme(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("x")
    assert "rediss://" in problems({"OJS_REDIS_TLS_CA": str(file)})[0]
    one = {"REDIS_URL": "rediss://localhost", "OJS_REDIS_TLS_CERT": str(file)}
    assert "both or neither" in problems(one)[0]


def test_a_durability_that_nothing_would_confirm_is_refused() -> None:
    none = {"OJS_DURABILITY_REPLICAS": "0"}
    (problem,) = problems({"OJS_DURABILITY": "replica", **none})
    assert problem.startswith("OJS_DURABILITY_REPLICAS: at least 1")
    for level in ("async", "fsync"):
        assert load({"OJS_DURABILITY": level, **none}).redis.durability_replicas == 0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates, and `locked.key`, the client's key under a passphrase."""
    if OPENSSL is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    locked = ("pkey", "-in", "client.key", "-aes256", "-passout", f"pass:{SECRET}")
    subprocess.run([OPENSSL, *locked, "-out", "locked.key"], check=True, cwd=folder)
    (folder / "no.pem").write_text("x")
    return folder


def tls_variables(folder: Path, *names: str, query: str = "") -> dict[str, str]:
    """Variables for a CA, a client's certificate and its key; None leaves one out."""
    variables = ("OJS_REDIS_TLS_CA", "OJS_REDIS_TLS_CERT", "OJS_REDIS_TLS_KEY")
    files = zip(variables, (str(folder / name) for name in names), strict=True)
    return {"REDIS_URL": f"rediss://localhost/{query}", **dict(files)}


@pytest.mark.parametrize(
    ("files", "query", "named"),
    [
        (("no.pem", "client.crt", "client.key"), "", "OJS_REDIS_TLS_CA:"),
        (("ca.crt", "no.pem", "client.key"), "", "OJS_REDIS_TLS_CERT, OJS_REDIS_TLS_KEY:"),
        (("ca.crt", "client.crt", "no.pem"), "", "OJS_REDIS_TLS_CERT, OJS_REDIS_TLS_KEY:"),
        (("ca.crt", "client.crt", "server.key"), "", "OJS_REDIS_TLS_CERT, OJS_REDIS_TLS_KEY:"),
        (("ca.crt", "client.crt", "locked.key"), "", "OJS_REDIS_TLS_CERT, OJS_REDIS_TLS_KEY:"),
        (("ca.crt", "client.crt", "locked.key"), "?ssl_password=wrong", "OJS_REDIS_TLS_CERT,"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_named_in_one_line(
    certificates: Path, files: tuple[str, ...], query: str, named: str
) -> None:
    (problem,) = problems(tls_variables(certificates, *files, query=query))
    assert problem.startswith(named)
    assert "\n" not in problem


def test_a_certificate_of_the_url_that_cannot_be_used_is_named(certificates: Path) -> None:
    url = f"rediss://localhost/?ssl_ca_certs={certificates}/no.pem&ssl_certfile=/no/such"
    found = problems({"REDIS_URL": url})
    assert [line.partition(":")[0] for line in found] == [
        "REDIS_URL (ssl_ca_certs)",
        "REDIS_URL (ssl_certfile, ssl_keyfile)",
    ]
    assert str(certificates) not in str(found)


def test_a_key_under_a_passphrase_is_opened_with_it(certificates: Path) -> None:
    files = ("ca.crt", "client.crt", "locked.key")
    load(tls_variables(certificates, *files, query=f"?ssl_password={SECRET}"))


def test_tls_files_and_credentials_reach_the_client(certificates: Path) -> None:
    file = certificates / "ca.crt"
    client = load(
        {
            "REDIS_URL": "rediss://another:old@a:7000,b:7001",
            "OJS_REDIS_TLS_CA": str(file),
            "OJS_REDIS_USERNAME": "me",
            "OJS_REDIS_PASSWORD": "pw",
            "OJS_REDIS_CALL_TIMEOUT": "1500ms",
        }
    ).redis.client()
    assert [str(node) for node in client.nodes] == ["a:7000", "b:7001"]
    assert client.tls is not None
    assert client.tls.ca_file == str(file)
    assert (client.username, client.password, client.call_timeout_s) == ("me", "pw", 1.5)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("OJS_VISIBILTY_TIMEOUT_MS", "did you mean OJS_VISIBILITY_TIMEOUT_MS?"),
        ("OJS_REDIS_URL", "did you mean REDIS_URL?"),
        ("OJS_REDIS_SENTINELS", "`ojs-cluster config` lists all"),
    ],
)
def test_a_mistyped_variable_is_mentioned(name: str, hint: str) -> None:
    others = {"OJS_URL": "a tool's own", "OJS_REDIS_PORT_6379_TCP": "of a Service in Kubernetes"}
    (warning,) = load({name: "1", **others}).warnings
    assert warning.startswith(f"{name} is set")
    assert hint in warning


def test_telemetry_follows_the_reference() -> None:
    def telemetry(**environ: str) -> tuple[bool, str]:
        section = load(environ).telemetry
        return section.enabled, section.endpoint

    assert telemetry() == (False, "")
    assert telemetry(OJS_OTEL_ENABLED="true") == (True, "")
    assert telemetry(OTEL_EXPORTER_OTLP_ENDPOINT="http://a:4318") == (True, "http://a:4318")
    both = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OJS_OTEL_ENDPOINT": "b:4317"}
    assert telemetry(**both) == (True, "http://b:4317")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("1m30s", 90),
        ("500ms", 0.5),
        ("1h", 3600),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("100us", 1e-4),
        ("100µs", 1e-4),
        ("10ns", 1e-8),
        ("7d", 604_800),
        ("0", 0),
        ("0s", 0),
    ],
)
def test_go_durations(text: str, seconds: float) -> None:
    assert parsers.go_duration_ns(text) == round(seconds * 1e9)


@pytest.mark.parametrize("text", ["", "30", "s", "-30s", "1 s", "30S", "1m 30s", "1e3s", "PT30S"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parsers.go_duration_ns(text)


@pytest.mark.parametrize("text", ["1_000", " 5", "\u0665", "5.0", "", "99999999999999999999"])
def test_numbers_are_plain(text: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        parsers.integer(minimum=0, maximum=10**6)(text)


def test_auto_workers_respect_the_container_quota(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text("50000 100000\n")
    assert usable_cpus(quota) == 1
    quota.write_text("max 100000\n")
    assert usable_cpus(quota) == usable_cpus(tmp_path / "missing") >= 1


def test_settings_are_immutable() -> None:
    settings: Settings = load({})
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.limits = PayloadLimits()  # type: ignore[misc] # what the test is about
