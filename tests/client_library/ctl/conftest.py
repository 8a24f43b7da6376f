"""One server for all tests of ``ojsctl``, and jobs in every state on it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ojs_client.ctl.api import Api
from ojs_client.ctl.app import cli
from ojs_client.ctl.profile import Connection
from tests.client_library.ctl.seed import seed
from tests.client_library.ctl.snapshot import COMMANDS, WIDTHS
from tests.server.programs import free_port, get, program
from tests.support.servers import own_server, wait_until


@dataclass(frozen=True, slots=True)
class Ctl:
    """Runs ``ojsctl`` in this process, against one server."""

    url: str
    api: Any = None
    """The client of the command line, for what a test prepares."""
    env: Mapping[str, str] = field(default_factory=dict)

    def run(
        self,
        *words: str,
        code: int | None = 0,
        text: str | None = None,
        env: Mapping[str, str] = {},
    ) -> Result:
        """Run a command line, and check its exit code, unless it may be any."""
        given = {
            **{name: None for name in os.environ if name.startswith("OJS_")},
            **{"NO_COLOR": None, "COLUMNS": None, "OJS_URL": self.url},
            **self.env,
            **env,
        }
        result = CliRunner().invoke(cli, words, input=text, env=given, prog_name="ojsctl")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert code in (result.exit_code, None), (words, result.output)
        return result

    def json(self, *words: str, **options: Any) -> Any:
        """Run a command line with ``-o json``, and return what it prints."""
        return json.loads(self.run(*words, "-o", "json", **options).stdout)

    def names(self, *words: str, **options: Any) -> list[str]:
        """Run a command line with ``-o name``, and return the names."""
        return self.run(*words, "-o", "name", **options).stdout.splitlines()

    def enqueue(self, queue: str, count: int = 1, **members: Any) -> list[str]:
        """Enqueue jobs of the type ``t.a`` and return their ids."""
        options = {"queue": queue, **members.pop("options", {})}
        job = {"type": "t.a", "args": [], "options": options, **members}
        reply = self.api.post("/ojs/v1/jobs/batch", {"jobs": [job] * count})
        return [each["id"] for each in reply["jobs"]]

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until the condition is true."""
        wait_until(condition, timeout_s=120, what=what)


@dataclass(frozen=True, slots=True)
class Shared:
    """The server of the session, and what the snapshots show of its jobs."""

    ctl: Ctl
    seeded: Mapping[str, str]
    shown: Mapping[tuple[str, int], str]
    """The output of the commands of the snapshots, before other tests have changed anything."""


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Run a server with a scheduler, with jobs in every state."""
    directory: Path = tmp_path_factory.mktemp("ctl")
    port = free_port()
    with own_server(directory, cluster=False) as redis:
        env = {"REDIS_URL": redis.url, "OJS_PORT": str(port), "OJS_SHARDS": "4"}
        env["OJS_SEARCH_INDEX"] = "meta.customer_id"
        with program(["-m", "ojs_cluster.cli", "dev", "--workers", "1"], env=env) as running:
            running.wait_line("Ctrl-C stops everything")
            wait_until(lambda: get(port, "/ready").status_code == 200, what="the server")
            url = f"http://127.0.0.1:{port}"
            with closing(Api(Connection(url, "", "test"), 60.0)) as api:
                ctl, seeded = Ctl(url, api), seed(api)
                yield Shared(ctl, seeded, capture(ctl, seeded))


def capture(ctl: Ctl, seeded: Mapping[str, str]) -> dict[tuple[str, int], str]:
    """Run the commands of the snapshots at both widths."""
    return {
        (name, width): ctl.run(*words.format(**seeded).split(), env={"COLUMNS": str(width)}).stdout
        for name, words in COMMANDS.items()
        for width in WIDTHS
    }


@pytest.fixture
def ctl(shared: Shared, tmp_path: Path) -> Ctl:
    """Run ``ojsctl`` against the server of the session; without any profile."""
    return replace(shared.ctl, env={"OJS_PROFILES": str(tmp_path / "profiles.json")})
