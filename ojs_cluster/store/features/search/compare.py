"""Compare the content of a job with a search, without blocking the event loop for long."""

from __future__ import annotations

from functools import partial
from typing import Final

import trio

from ojs_cluster.core.search import Search
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground.off_loop import off_loop

_LARGE: Final = 32 * 1024
"""Size in bytes above which a job is compared in a thread, because it may take milliseconds."""


async def search_admits(search: Search, job: JobRecord) -> bool:
    """Return whether the content of a job matches a search.

    Args:
        search: the search, which reads the content of jobs.
        job: the job, whose small fields match.
    """
    await ensure_task()
    await trio.lowlevel.checkpoint()
    return await off_loop(partial(search.admits_content, job), job.size, large=_LARGE)
