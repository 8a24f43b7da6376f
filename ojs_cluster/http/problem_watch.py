"""Look for problems of the cluster, and record them.

All API processes run this task, and one of them looks. So since when a problem is there, its
metric and its events do not depend on whether a page is open.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from ojs_cluster.core.errors import OJSError
from ojs_cluster.http.app import App
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.operators.dashboard.problem_records import (
    LOOK_S,
    ProblemDescription,
    record_problems,
    should_look,
)
from ojs_cluster.store.operators.operations.losses import restore
from ojs_cluster.store.operators.operations.processes import new_identity

log = logging.getLogger("ojs.http")

_EXPECTED: Final = (OJSError, RedisReplyError)


async def watch_problems(app: App) -> None:
    """Look for problems every ``LOOK_S`` until cancelled, while no other process does.

    The first look comes after a pause, because other processes may start with this one.
    """
    identity = new_identity()
    while True:
        await trio.sleep(LOOK_S)
        try:
            if app.store.redis.is_responsive(app.store.keys.meta.slot):
                await look(app, identity)
        except _EXPECTED as error:
            log.debug("cannot record problems: %r", error)
        except Exception:  # nothing that serves requests ends because of it
            log.exception("cannot look for problems")


async def look(app: App, identity: str) -> None:
    """Look for problems and record them, if it is the turn of this process.

    Last, it restores what it can of a master that has lost its data.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    if app.find_problems is None or not await should_look(app.store, identity):
        return
    found = await app.find_problems(app)
    described = {
        each.id: (each.since_ms, ProblemDescription(each.rule, each.severity, each.what))
        for each in found.problems
    }
    await record_problems(app.store, identity, described, is_complete=found.is_complete)
    await restore(app.store)
