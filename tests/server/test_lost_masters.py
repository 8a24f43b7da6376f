"""A master that comes back without its data is named, and what the others know is rebuilt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from ojs_cluster.keys import META, Keyspace, Shard
from ojs_cluster.server.embedded.servers import Embedded, EmbeddedNode
from tests.client_library.ctl.conftest import Ctl
from tests.server.test_incidents import Server, until
from tests.server.test_metrics import sample
from tests.server.test_serve import serve
from tests.support.servers import observer, own_server

KEYS = Keyspace(64)
_QUEUES = [f"q{number}" for number in range(12)]


def owner(cluster: Embedded, slot: int) -> EmbeddedNode:
    """Return the master of a slot."""
    with observer(cluster) as db:
        found: Any = db
        port = found.nodes_manager.get_node_from_slot(slot).port
    return next(node for node in cluster.nodes if node.port == port)


def shards_of(cluster: Embedded, node: EmbeddedNode) -> list[Shard]:
    return [shard for shard in KEYS if owner(cluster, shard.slot) is node]


def is_stamped(cluster: Embedded) -> bool:
    """Return whether all tags have had a stamp."""
    with observer(cluster) as db:
        return {db.hget(tag.schema, "stamp") for tag in (*KEYS, KEYS.meta)} == {b"2"}


def names(server: Server) -> set[str]:
    listed = server.http.get("/ojs/v1/queues").json()
    return {each["name"] for each in listed["queues"]}


@pytest.mark.parametrize("of_meta", [True, False], ids=["meta tag", "other"])
def test_a_master_that_restarts_empty_is_named_with_what_was_on_it(
    tmp_path: Path, of_meta: bool
) -> None:
    with (
        own_server(tmp_path) as cluster,
        serve(cluster.url, OJS_UI="full") as (running, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        running.wait_line("ready to serve")
        server = Server(port, cluster.url, client, Ctl(str(client.base_url)))
        for queue in _QUEUES:
            server.enqueue("t", queue=queue)
        until(lambda: is_stamped(cluster), what="the stamps")
        assert not [each for each in server.listed() if each.startswith("data_lost")]

        holder = owner(cluster, KEYS.slot_of_index(META))
        node = next(each for each in cluster.nodes if (each is holder) == of_meta)
        lost = shards_of(cluster, node)
        kept = {each for each in _QUEUES if KEYS.shard_of_queue(each) not in lost}
        assert kept not in (set(), set(_QUEUES))
        cluster.kill(node)
        cluster.restart(node)

        problem_id = ""

        def is_recorded() -> bool:
            nonlocal problem_id
            begin = f"data_lost:{node.address}@"
            problem_id = next((each for each in server.listed() if each.startswith(begin)), "")
            return problem_id != ""

        until(is_recorded, what="the loss")
        found = server.see(problem_id)
        what = ", the cron jobs, the webhooks and all settings of the cluster" if of_meta else ""
        assert found["text"] == (
            f"The Redis master {node.address} has lost its data: jobs and settings of "
            f"queues in {len(lost)} of 64 shards{what}"
        )
        assert found["severity"] == "critical"
        until(lambda: is_stamped(cluster), what="the stamps are written again")
        until(lambda: names(server) >= kept, what="the list of queues is rebuilt")
        until(lambda: sample(port, "ojs_queues") >= len(kept), what="the metrics know the queues")
        assert server.fetch(min(kept)), "its job is still there"

        server.ctl.run("problem", "ack", problem_id)
        server.see_end(problem_id)
        assert is_stamped(cluster)
