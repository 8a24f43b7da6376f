"""Kill (SIGKILL) the relay of an outbox, its database, the API and the worker under load."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import Event, Thread

import psycopg
from psycopg import sql

from ojs_client import Client, Job, RetryPolicy, SyncClient
from ojs_client.outbox import SCHEMA, enqueue
from tests.kill.outbox_worker import QUEUES
from tests.support.deployment import Deployment
from tests.support.nodes import environment
from tests.support.postgres import Postgres, postgres_server  # noqa: F401 - fixture
from tests.support.servers import wait_until

TABLES = """
    CREATE TABLE orders (number int PRIMARY KEY, job_id text NOT NULL);
    CREATE TABLE effects (number int NOT NULL)"""
PROGRESS = 30
"""How many orders have their effects between two faults."""
PATIENCE_S = 180
RETRY = RetryPolicy(max_attempts=200, initial_interval=0.1, max_interval=0.5)


class Restarted:
    """A process that is killed and started again.

    Args:
        command: its arguments.
        log: where its output goes.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        self._command, self._log = command, log
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=subprocess.STDOUT, env=environment("")
            )

    def kill(self) -> None:
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def end(self) -> None:
        """Stop it, and check that it ran until then."""
        assert self._process.poll() is None, self._log.read_text()
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(PATIENCE_S) == 0, self._log.read_text()


class Shop:
    """Takes orders in a thread: two of three are committed. The database may die at any time.

    Args:
        database: the address of the database.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self._stopped = Event()
        self.rolled_back: set[int] = set()
        """Orders that are certainly not committed."""
        self.error: Exception | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        thread = Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join(PATIENCE_S)
        assert self.error is None, self.error

    def _run(self) -> None:
        number = 0
        try:
            while not self._stopped.is_set():
                try:
                    with psycopg.connect(self._database, connect_timeout=10) as connection:
                        while not self._stopped.wait(0.02):
                            number += 1
                            self._take(connection, number)
                except psycopg.Error:  # the last order may be committed or not
                    time.sleep(0.1)
        except Exception as error:
            self.error = error

    def _take(self, connection: psycopg.Connection, number: int) -> None:
        queue = QUEUES[number % 2]
        job_id = enqueue(connection, "kill.order", number, queue=queue, retry=RETRY)
        connection.execute("INSERT INTO orders VALUES (%s, %s)", (number, job_id))
        if number % 3:
            connection.commit()
        else:
            self.rolled_back.add(number)
            connection.rollback()


def numbers(database: str, table: str) -> list[int]:
    """Return the orders of a table; an empty list while the database is away."""
    try:
        with psycopg.connect(database, connect_timeout=10) as connection:
            query = sql.SQL("SELECT number FROM {} ORDER BY number").format(sql.Identifier(table))
            return [number for (number,) in connection.execute(query)]
    except psycopg.OperationalError:
        return []


def await_more(database: str) -> None:
    before = len(numbers(database, "effects"))
    wait_until(
        lambda: len(numbers(database, "effects")) >= before + PROGRESS,
        timeout_s=PATIENCE_S,
        what=f"{PROGRESS} more effects after {before}",
    )


def without_relays(database: str) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ojs-outbox'"
    with psycopg.connect(database) as connection:
        return connection.execute(query).fetchone() == (0,)


async def jobs_of(client: Client, queue: str) -> list[Job]:
    return [job async for job in client.jobs.find(queue=queue)]


def test_each_committed_order_has_its_effect_once_in_its_order(
    deployment: Deployment,
    postgres_server: Postgres,  # noqa: F811 - the fixture
    tmp_path: Path,
    kill_round: int,
) -> None:
    database = postgres_server.new_database()
    with psycopg.connect(database) as connection:
        connection.execute(f"{SCHEMA}{TABLES}".encode())
    program = str(Path(sys.executable).with_name("ojs-outbox"))
    command = [program, "relay", "--database", database, "--url", deployment.url]
    relay = Restarted([*command, "--poll", "0.05s", "--portion", "20"], tmp_path / "relay")
    module = [sys.executable, "-m", "tests.kill.outbox_worker", deployment.url, database]
    worker = Restarted([*module, "worker"], tmp_path / "worker")
    shop = Shop(database)

    def kill_relay() -> None:
        relay.kill()
        # The rows of a relay are free, and its order is kept, when the database sees its end.
        wait_until(partial(without_relays, database), what="the database sees the end of the relay")
        relay.start()

    def kill_database() -> None:
        postgres_server.kill()
        time.sleep(random.uniform(0, 1))
        postgres_server.start()

    def kill_api() -> None:
        for node in deployment.nodes:
            node.process.kill_all()
        time.sleep(random.uniform(0, 1))
        for node in deployment.nodes:
            node.process.start()
        for node in deployment.nodes:
            node.await_ready()

    def kill_worker() -> None:
        worker.kill()
        worker.start()

    faults: list[Callable[[], None]] = [
        kill_relay,
        kill_relay,
        kill_database,
        kill_api,
        kill_worker,
    ]
    random.shuffle(faults)
    try:
        with shop.open():
            for fault in faults:
                await_more(database)
                time.sleep(random.uniform(0, 0.3))
                fault()
            await_more(database)
        orders = numbers(database, "orders")
        wait_until(
            lambda: set(orders) <= set(numbers(database, "effects")),
            timeout_s=PATIENCE_S,
            what="each order has its effect",
        )
        relay.end()
        worker.end()
    finally:
        relay.kill()
        worker.kill()
    assert numbers(database, "effects") == orders, "an effect is missing, doubled, or of no order"
    assert shop.rolled_back.isdisjoint(orders)
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM ojs_outbox").fetchone() == (0,)
    with SyncClient(deployment.url) as client:
        jobs = [client.run(partial(jobs_of, queue=queue)) for queue in QUEUES]
    assert Counter(job.args[0] for queue in jobs for job in queue) == Counter(orders)
    for queue in jobs:
        sent = sorted(queue, key=lambda job: int(job.args[0]))
        times = [datetime.fromisoformat(job.members["created_at"]) for job in sent]
        assert times == sorted(times), "the order of insertion is the order of the server"
