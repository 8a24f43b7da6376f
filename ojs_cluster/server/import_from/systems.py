"""The job systems whose jobs can be imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ojs_cluster.server.import_from.bullmq import read_bullmq
from ojs_cluster.server.import_from.celery import read_celery
from ojs_cluster.server.import_from.foreign_job import Reader
from ojs_cluster.server.import_from.ojs_redis import read_ojs_redis
from ojs_cluster.server.import_from.sidekiq import read_sidekiq

READERS: Final[Mapping[str, Reader]] = {
    "bullmq": read_bullmq,
    "celery": read_celery,
    "ojs-redis": read_ojs_redis,
    "sidekiq": read_sidekiq,
}
"""The reader of each system, by its name on the command line."""
