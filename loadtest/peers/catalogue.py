"""The libraries that the benchmark compares, and how it installs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from ojs_cluster import __version__

CACHE = Path(".cache/peers")
OPTIONS = ("delayed", "retry", "unique", "priority", "rate", "concurrency")
FLOWS = ("chain", "group")
ABSENT = {
    "asynq, Faktory": "neither PyPI nor npm nor Debian has them",
    "OJS Python SDK": "the official SDK is not on PyPI",
}


@dataclass(frozen=True)
class Peer:
    """A library under measurement.

    Args:
        name: its program in ``programs`` and its folder in the cache.
        title: its name in the tables.
        statement: what a producer imports.
        packages: what is installed; empty for this project.
        options: options of a job that it has by itself.
        flows: types of workflow that it has by itself.
        has_batch: whether one call enqueues many jobs with fewer requests.
        is_serial: whether a process runs one job at a time.
        forks: whether the worker forks for every job.
    """

    name: str
    title: str
    statement: str
    packages: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    flows: tuple[str, ...] = ()
    has_batch: bool = False
    is_serial: bool = False
    forks: bool = False

    @property
    def folder(self) -> Path:
        """Where its packages are."""
        return (CACHE / self.name).absolute()

    @property
    def is_ours(self) -> bool:
        """Whether it is this project."""
        return not self.packages

    @property
    def is_node(self) -> bool:
        """Whether its program runs on Node.js."""
        return self.name == "bullmq"

    @property
    def has_postgres(self) -> bool:
        """Whether it stores its jobs in PostgreSQL."""
        return self.name == "procrastinate"

    def handlers(self, tasks: int) -> int:
        """Return the argument ``tasks`` of its worker."""
        if self.is_serial:
            return 0 if self.forks else 1
        return tasks

    def version(self) -> str:
        """Return the version that is installed; empty without one."""
        if self.is_ours:
            return __version__
        if self.is_node:
            file = self.folder / "node_modules" / self.name / "package.json"
            return str(json.loads(file.read_text())["version"]) if file.exists() else ""
        found = distributions(name=self.name, path=[str(self.folder)])
        return next((each.version for each in found), "")

    def lack(self) -> str:
        """Return what the machine lacks for it; empty if nothing."""
        if self.is_node and not (shutil.which("npm") and shutil.which("node")):
            return "it needs Debian's packages nodejs and npm"
        if self.has_postgres and not postgres_folder():
            return "it needs Debian's package postgresql"
        return ""

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """Return a command line of its interpreter, and the environment."""
        env = {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}
        if self.is_node:
            return ["node", *arguments], env | {"PEER_FOLDER": str(self.folder)}
        packages = Path("clients/python/src").absolute() if self.is_ours else self.folder
        # The same interpreter; only ours needs the packages of this environment.
        python = sys.executable if self.is_ours else getattr(sys, "_base_executable", "python3")
        return [python, *arguments], env | {"PYTHONPATH": f"{packages}{os.pathsep}{os.getcwd()}"}

    def program(self, spec: str) -> tuple[list[str], dict[str, str]]:
        """Return the command line of its program, and the environment."""
        if self.is_node:
            return self.command(str(Path(__file__).with_name("programs") / "bullmq.mjs"), spec)
        return self.command("-m", f"loadtest.peers.programs.{self.name}", spec)


PEERS = (
    Peer("ours", "ojs-cluster", "from ojs_client import Client", (), OPTIONS, FLOWS, True),
    Peer(
        *("bullmq", "BullMQ", "require(`${process.env.PEER_FOLDER}/node_modules/bullmq`)"),
        ("bullmq", "ioredis"),
        OPTIONS,
        FLOWS,
        has_batch=True,
    ),
    Peer(
        *("dramatiq", "Dramatiq", "import dramatiq, dramatiq.brokers.redis"),
        ("dramatiq[redis]", "hiredis"),
        ("delayed", "retry", "rate", "concurrency"),
        FLOWS,
    ),
    Peer(
        *("taskiq", "Taskiq", "import taskiq_redis"),
        ("taskiq", "taskiq-redis", "hiredis"),
        ("retry",),
    ),
    Peer(
        *("celery", "Celery", "from celery import Celery; Celery().Task"),
        ("celery[redis]", "hiredis"),
        ("delayed", "retry", "priority", "rate"),
        FLOWS,
    ),
    Peer("arq", "arq", "import arq", ("arq",), ("delayed", "retry", "unique")),
    Peer(
        *("huey", "Huey", "from huey import RedisHuey"),
        ("huey", "redis", "hiredis"),
        ("delayed", "retry", "priority", "rate"),
        FLOWS,
    ),
    Peer(
        *("rq", "RQ, SimpleWorker", "import rq"),
        ("rq", "hiredis"),
        ("delayed", "retry", "unique"),
        FLOWS,
        has_batch=True,
        is_serial=True,
    ),
    Peer("rq", "RQ, Worker", "import rq", ("rq", "hiredis"), is_serial=True, forks=True),
    Peer(
        *("procrastinate", "Procrastinate", "import procrastinate"),
        ("procrastinate", "psycopg[binary]"),
        ("delayed", "retry", "unique", "priority"),
        has_batch=True,
    ),
)


def install(peer: Peer) -> str:
    """Install a library; return why not, or an empty text."""
    if peer.is_ours or peer.lack() or peer.version():
        return peer.lack()
    if peer.is_node:
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(peer.folder)]
    else:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(peer.folder)]
    done = subprocess.run(
        [*command, *peer.packages], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return "" if peer.version() else done.stdout.strip().rpartition("\n")[2]


def obtain(names: list[str], *, may_install: bool) -> tuple[list[Peer], dict[str, str]]:
    """Return the libraries that can run, and for all others why not."""
    found, absent = [], dict(ABSENT)
    for peer in PEERS:
        if names and peer.name not in names:
            continue
        reason = install(peer) if may_install else peer.lack()
        if reason or not peer.version():
            absent[peer.title] = reason or "it is not installed"
        else:
            found.append(peer)
    return found, absent


def postgres_folder() -> Path | None:
    """Return the folder of PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None
