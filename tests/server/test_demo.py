"""`ojs-cluster dev --demo`: every page of the dashboard has something to show."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from ojs_cluster.server.commands.dev import DevOptions, run_dev
from ojs_cluster.server.config.load import ConfigError
from ojs_cluster.server.demo import shop
from tests.server.programs import free_port, program
from tests.support.servers import wait_until

CLI = ("-m", "ojs_cluster.cli")
KEY = "a-key-of-the-demo"


def test_the_demo_fills_every_page_and_ends_with_the_server(tmp_path: Path) -> None:
    env = {"OJS_PORT": str(free_port()), "OJS_API_KEY": KEY, "OJS_WORKERS": "1"}
    with program([*CLI, "dev", "--demo"], env=env, cwd=tmp_path) as running:
        url = running.wait_line("API  ").split()[1]
        assert "--demo" not in running.wait_line("Dashboard"), "it runs already"
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(headers=headers, timeout=60) as client:

            def read(path: str) -> Any:
                answer = client.get(f"{url}{path}")
                return answer.json() if answer.status_code == 200 else {}

            def is_alive() -> bool:
                queues = {each["name"]: each for each in read("/queues")["queues"]}
                held = read("/admin/workers/reporter-1").get("jobs", [])
                workflows = read("/workflows")["workflows"]
                return (
                    queues.get(shop.PAUSED, {}).get("paused", False)
                    and len(read("/admin/workers")["items"]) == len(shop.WORKERS)
                    and len(read("/admin/errors")["items"]) > 1
                    and read("/dead-letter")["pagination"]["total"] > 0
                    and any(each["steps_completed"] for each in workflows)
                    and any(read(f"/jobs/{job['id']}/progress")["progress"] for job in held)
                    and read("/admin/stats")["jobs"]["scheduled"] > 0
                )

            wait_until(is_alive, timeout_s=120, what="the demo runs")
            crons = {each["name"] for each in read("/cron")["cron_jobs"]}
            assert crons == {"nightly-report", "stock-check"}
            limits = read("/admin/queues/billing/rate-limit")
            assert limits["concurrency"]["limit"] == 2
        running.signal(signal.SIGINT)
        assert running.wait_exit() == 0
        assert "Traceback" not in running.output
        assert "tries again" not in running.output, "the server refused requests of the demo"
        assert "Stopped." in running.output
    assert (tmp_path / ".ojs-demo").is_dir()
    assert not (tmp_path / ".ojs-data").exists(), "the jobs of the developer are elsewhere"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "redis://localhost:6379"),
        ("OJS_TLS_CERT", "server.pem"),
        ("OJS_API_KEYS_FILE", "keys.toml"),
    ],
)
def test_the_demo_refuses_what_it_would_fill_or_cannot_reach(
    tmp_path: Path, name: str, value: str
) -> None:
    options = DevOptions(server="auto", data=tmp_path, masters=3, demo=True)
    with pytest.raises(ConfigError, match=f"{name}: --demo"):
        run_dev(options, {name: value})


def test_each_type_fails_for_some_orders_only() -> None:
    for kind in ("email.send", "card.charge", "image.resize", "report.build"):
        failed = [shop.failure_of(kind, number) is not None for number in range(60)]
        assert 0 < sum(failed) < len(failed) / 2
