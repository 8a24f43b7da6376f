"""A worker whose effects are rows: ``python -m tests.kill.outbox_worker URL DATABASE NAME``.

A job of type ``kill.order`` has the number of an order. Its handler writes an effect for it. Some
handlers raise after their commit.
"""

from __future__ import annotations

import sys

import psycopg

from ojs_client import BlockingJob, Worker

QUEUES = ("kill-one", "kill-two")


def main() -> None:
    url, database, name = sys.argv[1:]
    worker = Worker(
        url, queues=QUEUES, worker_id=name, concurrency=5, lease=5, heartbeat=0.5, poll=1
    )

    @worker.handler("kill.order")
    def order(job: BlockingJob) -> None:
        number = job.args[0]
        with psycopg.connect(database, connect_timeout=10) as connection:
            if job.once(connection):
                connection.execute("INSERT INTO effects VALUES (%s)", (number,))
        if job.attempt == 1 and number % 5 == 0:
            raise ConnectionError("after the commit")

    worker.run()


if __name__ == "__main__":
    main()
