"""The load test works on a system of its own: ``make loadtest``, for some seconds."""

from __future__ import annotations

import json
from pathlib import Path

from tests.server.programs import free_port, program

REQUESTS = {"ack", "ack batch", "cron", "enqueue", "fetch", "workflow"}
"""Requests that any machine sends within seconds."""


def test_every_kind_of_user_gets_right_answers_and_the_report_is_written(tmp_path: Path) -> None:
    report, figures = tmp_path / "report.html", tmp_path / "figures"
    options = ["--users", "22", "--run-time", "10s", "--html", str(report)]
    options += ["--json-file", str(figures)]
    env = {"OJS_PORT": str(free_port()), "OJS_LOADTEST_BATCH": "3"}
    with program(["-m", "loadtest.local", *options], env=env) as running:
        assert running.wait_exit() == 0, running.output
    stats = json.loads(figures.with_suffix(".json").read_text())
    requests = {entry["name"]: entry for entry in stats}
    assert requests.keys() >= REQUESTS, running.output
    assert all(entry["num_failures"] == 0 for entry in stats), running.output
    # Every received job was checked, and none had two workers at the same time.
    assert requests["waited"]["num_requests"] > 0
    assert "held twice" not in requests
    assert "<html" in report.read_text()
