"""The fixtures of the library are there wherever it is installed, and cost nothing if unused."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Final

import pytest

from ojs_client import pytest_plugin
from tests.client_library.test_layout import ROOT as LIBRARY
from tests.server.programs import ROOT

pytest_plugins = ["pytester"]

DECLARED: Final = tomllib.loads((ROOT / "clients" / "python" / "pyproject.toml").read_text())
PLUGINS: Final = DECLARED["project"]["entry-points"]["pytest11"]
OTHERS: Final = [f"-pno:{name}" for name in ("cloudcoil", "schemathesis", "faker", "cacheprovider")]
"""Options that leave out plugins of this environment."""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project in whose environment the library is installed, with the metadata of its wheel."""
    metadata = pytester.mkdir("site") / "ojs_client_here-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ojs-client-here\nVersion: 1\n")
    lines = [f"{name} = {module}\n" for name, module in PLUGINS.items()]
    (metadata / "entry_points.txt").write_text("[pytest11]\n" + "".join(lines))
    paths = (metadata.parent, LIBRARY.parent, ROOT, ROOT / "scheduler")
    monkeypatch.setenv("PYTHONPATH", ":".join(map(str, paths)))
    pytester.makepyfile(
        shop="""
        from ojs_client import App, RetryPolicy

        app = App()
        runs = []

        @app.task(queue="shop", retry=RetryPolicy(max_attempts=2))
        def charge(order: int) -> int:
            runs.append(order)
            if len(runs) == 1:
                raise ValueError("the bank does not answer")
            return order + 1000
        """
    )
    return pytester


def test_the_fake_and_its_clock_run_jobs_without_an_event_loop(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        from datetime import timedelta

        import pytest
        from ojs_client import SyncClient
        from shop import app, charge, runs

        @pytest.mark.parametrize("number", [1, 2])
        def test_later_and_again(ojs_fake, ojs_clock, number):
            runs.clear()
            begin = ojs_clock.now
            assert ojs_fake.jobs() == []
            with SyncClient(ojs_fake.url, transport=ojs_fake.transport) as client:
                with app.using(client):
                    job = charge.with_options(delay="1h").delay(7)
                ojs_clock.advance(0, app.worker())
                assert runs == []
                ojs_clock.advance("1h", app.worker())
                assert (runs, client.get(job.id).state) == ([7], "retryable")
                ojs_clock.advance(1, app.worker())
                assert client.result(job.id) == 1007
            assert runs == [7, 7]
            assert ojs_clock.now - begin == timedelta(hours=1, seconds=1)

        async def scenario(ojs_fake):
            async with ojs_fake.client() as client, ojs_fake.running(app.worker()):
                job = await client.enqueue("charge", {"order": 1}, queue="shop")
                await ojs_fake.run_all()
                assert await client.result(job.id) == 1001

        def test_an_event_loop(ojs_fake):
            import anyio
            anyio.run(scenario, ojs_fake)
        """
    )
    project.runpytest_subprocess("-W", "error", *OTHERS).assert_outcomes(passed=3)


def test_a_real_server_serves_the_session(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        from ojs_client import SyncClient

        def test_one(ojs_server):
            with SyncClient(ojs_server) as client:
                client.enqueue("t.one", 1)

        def test_two(ojs_server):
            with SyncClient(ojs_server) as client:
                job = client.enqueue("t.two", delay="1h")
                assert client.get(job.id).state == "scheduled"
                print("port", ojs_server)
        """
    )
    done = project.runpytest_subprocess("-W", "error", "-rP", *OTHERS)
    done.assert_outcomes(passed=2)
    url = done.stdout.str().partition("port ")[2].split()[0]
    refused = subprocess.run(
        [sys.executable, "-c", f"import httpx; httpx.get('{url}', trust_env=False)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Connection refused" in refused.stderr, "the server has ended with the session"


def test_without_a_server_a_line_says_what_to_install(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{project.path / 'site'}:{LIBRARY.parent}")
    # This environment has a server. A finder that finds none stands for one without.
    project.makeconftest(
        """
        from ojs_client import pytest_plugin
        pytest_plugin.find_spec = lambda name: None
        """
    )
    project.makepyfile("def test_it(ojs_server): ...")
    done = project.runpytest_subprocess("-rs", *OTHERS)
    done.assert_outcomes(skipped=1)
    done.stdout.fnmatch_lines(["*ojs_server needs a server: pip install 'ojs-cluster?embedded?'"])


def test_a_server_that_does_not_start_is_an_error_with_its_log(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        from ojs_client import pytest_plugin
        pytest_plugin.sys = type("sys", (), {"executable": "false"})
        """
    )
    project.makepyfile("def test_it(ojs_server): ...")
    done = project.runpytest_subprocess(*OTHERS)
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*RuntimeError: ojs-cluster dev does not answer:*"])


def test_the_server_of_another_program_at_its_port_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    monkeypatch.setattr(pytest_plugin, "_START_S", 1.0)
    log = tmp_path / "log"
    log.touch()
    waiting = [sys.executable, "-c", "input()"]
    with (
        HTTPServer(("127.0.0.1", 0), Healthy) as other,
        subprocess.Popen(waiting, stdin=subprocess.PIPE) as process,
    ):
        Thread(target=other.serve_forever).start()
        try:
            with pytest.raises(RuntimeError, match="does not answer"):
                pytest_plugin._wait(process, other.server_port, log)
        finally:
            other.shutdown()
            process.kill()


def test_the_plugin_imports_nothing_else_of_the_library(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import sys

        def test_it(request):
            assert request.config.pluginmanager.has_plugin("ojs")
            assert {"ojs_client.client", "httpx2", "msgspec"}.isdisjoint(sys.modules)
        """
    )
    project.runpytest_subprocess("-p", "no:anyio", *OTHERS).assert_outcomes(passed=1)


def test_each_module_of_an_entry_point_exists() -> None:
    for module in PLUGINS.values():
        package, _, name = module.partition(".")
        assert package == LIBRARY.name
        assert Path(LIBRARY / f"{name}.py").is_file()
