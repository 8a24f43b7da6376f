"""The page about the command: its examples are valid."""

from __future__ import annotations

import configparser
import re
import shlex
from typing import Any

import pytest
import yaml

from ojs_client.worker_command.arguments import parse
from tests.helm.chart import NEWEST, OLDEST
from tests.helm.crds import validate
from tests.helm.test_worker_guide import DEPLOYMENT, default
from tests.server.programs import ROOT

PAGE = ROOT / "docs" / "guide" / "worker-command.md"
BLOCKS = dict(re.findall(r"^```(ini|yaml)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL))
DRAIN_S = 20


def test_every_command_of_the_page_has_options_that_exist() -> None:
    commands = re.findall(
        r"^(?:ExecStart=\S+/)?ojs-worker (.+:.+)$", PAGE.read_text(), re.MULTILINE
    )
    assert len(commands) == 2
    for command in commands:
        assert parse(shlex.split(command)).target == "shop.tasks:app"
    options = set(re.findall(r"`(--[a-z-]+)", PAGE.read_text()))
    assert len(options) > 10
    with pytest.raises(SystemExit):
        parse(["shop:app", "--nothing"])
    for option in options - {"--help"}:
        value = {"--reload": []}.get(option, ["1"])
        if option in ("--backend", "--log-format", "--log-level"):
            value = [{"--backend": "trio", "--log-format": "json"}.get(option, "INFO")]
        parse(["shop:app", option, *value])


def test_the_unit_waits_for_the_drain() -> None:
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(BLOCKS["ini"])
    assert int(unit["Service"]["TimeoutStopSec"]) > default("grace") + DRAIN_S
    assert unit["Service"]["KillMode"] == "mixed"


@pytest.mark.parametrize("kubernetes", [OLDEST, NEWEST])
def test_the_deployment_is_valid(kubernetes: str) -> None:
    deployment: Any = yaml.safe_load(DEPLOYMENT)
    change: Any = yaml.safe_load(BLOCKS["yaml"])["spec"]["template"]["spec"]
    pod = deployment["spec"]["template"]["spec"]
    (container,), (changed,) = pod["containers"], change["containers"]
    assert (container["name"], container["image"]) == (changed["name"], changed["image"])
    container.update(changed)
    validate(deployment, kubernetes)
    assert change["terminationGracePeriodSeconds"] > default("grace") + DRAIN_S
    options = parse(changed["command"][1:])
    assert options.health == ("", changed["ports"][0]["containerPort"])
    assert changed["command"][0] == "ojs-worker"
    for probe in ("startupProbe", "livenessProbe"):
        assert changed[probe]["httpGet"] == {"path": "/health", "port": "health"}
