"""Processes and data of a newer layout: none starts, and running ones drain and say why."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from ojs_cluster.server.config.load import EXIT_CONFIG
from ojs_cluster.server.embedded.servers import Embedded
from tests.support.nodes import ApiNode, Process, scheduler
from tests.support.servers import observer, wait_until

REASON = (
    "the data in Redis has layout 2, and this version serves layouts up to 1: "
    "run the version that wrote the data, or a later one"
)


def exit_code(process: Process) -> int | None:
    return process._popen.poll() if process._popen else None


def errors(process: Process) -> list[Any]:
    """Return the messages of the error lines of a process."""
    lines = (json.loads(line) for line in process.log.read_text().splitlines())
    return [line["msg"] for line in lines if line["level"] == "error"]


def test_processes_drain_when_the_data_has_a_newer_layout(
    standalone: Embedded, tmp_path: Path
) -> None:
    node = ApiNode("node", tmp_path, standalone.url, workers=1)
    leader = scheduler("scheduler", tmp_path, standalone.url)
    later = scheduler("later", tmp_path, standalone.url)
    with observer(standalone) as db, ThreadPoolExecutor(1) as pool:
        try:
            leader.start()
            node.start()
            schema = "ojs:{meta}:schema"
            wait_until(lambda: bool(list(db.scan_iter("ojs:{meta}:leader:*"))), what="one leads")
            assert db.hexists(schema, "seen:1")
            body = {"queues": ["none"], "worker_id": "w", "wait_ms": 20_000}
            waiting = pool.submit(
                httpx.post, f"{node.url}/ojs/v1/workers/fetch", json=body, timeout=60
            )
            wait_until(lambda: bool(list(db.scan_iter("ojs:*:w:w"))), what="the fetch waits")
            db.hset(schema, mapping={"version": 2, "oldest": 1})
            for process in (node.process, leader):
                wait_until(lambda: not process.is_alive(), what="it ends")  # noqa: B023
                assert exit_code(process) == EXIT_CONFIG
                assert REASON in "\n".join(errors(process))
            answer = waiting.result()
            assert (answer.status_code, answer.json()["jobs"]) == (200, [])
            assert not list(db.scan_iter("ojs:*:leader:*"))  # a version that can may lead at once
            later.start()
            wait_until(lambda: not later.is_alive(), what="it refuses to start")
            assert (exit_code(later), errors(later)) == (EXIT_CONFIG, [REASON])
        finally:
            for part in (node, leader, later):
                part.stop()
