"""Prometheus itself loads the rules of the chart, and they fire when they should (``promtool``).

The tests need the Debian package ``prometheus``, and are skipped without it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.chart import CHART, Chart

PROMTOOL = shutil.which("promtool")
pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
TARGET = 'namespace="work",job="jobs-ojs-cluster"'


@pytest.fixture(scope="module")
def groups(chart: Chart) -> list[Any]:
    rendering = chart.render(CHART / "ci" / "production-values.yaml")
    found: list[Any] = rendering.one("PrometheusRule")["spec"]["groups"]
    return found


def promtool(tmp_path: Path, groups: list[Any], tests: list[Any] | None = None) -> None:
    """Check the rules, or test them."""
    assert PROMTOOL is not None
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    command = [PROMTOOL, "check", "rules", "rules.yaml"]
    if tests is not None:
        given = {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": tests}
        (tmp_path / "tests.yaml").write_text(yaml.safe_dump(given))
        command = [PROMTOOL, "test", "rules", "tests.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def problem(values: str, *, state: str = "open", pod: str = "a", rule: str = "old_jobs") -> Any:
    labels = f'rule="{rule}",severity="critical",state="{state}",pod="{pod}"'
    return {"series": f"ojs_problem{{{TARGET},{labels}}}", "values": values}


def fires(at: str, *found: str, alert: str = "OjsProblem") -> Any:
    """Expect the alert for these rules at a time."""
    return {
        "eval_time": at,
        "alertname": alert,
        "exp_alerts": [{"exp_labels": {"severity": "critical", "rule": rule}} for rule in found],
    }


def test_prometheus_loads_the_rules(tmp_path: Path, groups: list[Any]) -> None:
    promtool(tmp_path, groups)


def test_each_rule_with_open_problems_has_one_alert(tmp_path: Path, groups: list[Any]) -> None:
    """Two targets tell the same, and muted problems are left out."""
    series = [
        problem("1x60"),
        problem("1x60", pod="b"),
        problem("0x20 2x40", rule="data_lost"),
        problem("1x60", state="muted", rule="job_hangs"),
        problem("1x60", state="acknowledged", rule="no_worker"),
    ]
    expected = [
        fires("45s"),
        fires("3m", "old_jobs"),
        fires("8m", "old_jobs", "data_lost"),
    ]
    promtool(tmp_path, groups, [_case(series, expected, groups)])


def test_alerts_keep_firing_while_redis_is_away_for_a_minute(
    tmp_path: Path, groups: list[Any]
) -> None:
    """The metrics of the cluster are missing then."""
    series = [problem("1x20 stale _x4 1x8 stale _x40")]
    expected = [
        fires("4m", "old_jobs"),
        fires("5m30s", "old_jobs"),
        fires("6m15s", "old_jobs"),
        fires("7m", "old_jobs"),
        fires("15m"),
    ]
    promtool(tmp_path, groups, [_case(series, expected, groups)])


def _case(series: list[Any], expected: list[Any], groups: list[Any]) -> Any:
    """Return a test; the annotations are those of the rule, with the values of the alert."""
    [rule] = [each for each in groups[0]["rules"] if each.get("alert") == "OjsProblem"]
    for each in expected:
        for alert in each["exp_alerts"]:
            name = alert["exp_labels"]["rule"]
            value = "2" if name == "data_lost" else "1"
            description = rule["annotations"]["description"]
            description = description.replace("{{ $value }}", value)
            alert["exp_annotations"] = {
                "summary": rule["annotations"]["summary"],
                "description": description.replace("{{ $labels.rule }}", name),
            }
    return {"interval": "15s", "input_series": series, "alert_rule_test": expected}
