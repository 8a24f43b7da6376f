"""Look for problems of the cluster, and record them.

All API processes run this task, and one of them looks. So since when a problem is there, its
metric and its events do not depend on whether a page is open.
"""

from __future__ import annotations

import logging
from functools import partial
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
from ojs_cluster.store.operators.operations.losses import rebuild, record_losses
from ojs_cluster.store.operators.operations.processes import new_identity

log = logging.getLogger("ojs.http")

_EXPECTED: Final = (OJSError, RedisReplyError)
_REFUSED_S: Final = 600.0
"""Pause in seconds after a master has refused to list its queues. Each try reads all keys of the
other masters, and an operator may need time to give the right."""


async def watch_problems(app: App) -> None:
    """Look for problems every ``LOOK_S`` until cancelled, while no other process does.

    The first look comes after a pause, because other processes may start with this one.
    """
    identity = new_identity()
    rebuilding = trio.Lock()
    async with trio.open_nursery() as nursery:
        while True:
            await trio.sleep(LOOK_S)
            try:
                if app.store.redis.is_responsive(app.store.keys.meta.slot):
                    is_lost = await look(app, identity)
                    if is_lost and not rebuilding.locked():
                        nursery.start_soon(_rebuild, app, identity, rebuilding)
            except _EXPECTED as error:
                log.debug("cannot record problems: %r", error)
            except Exception:  # nothing that serves requests ends because of it
                log.exception("cannot look for problems")


async def look(app: App, identity: str) -> bool:
    """Look for problems and record them, if it is the turn of this process.

    Losses of masters are recorded before. One whose problem has no time yet is left out, because
    its id changes.

    Returns:
        Whether this process should rebuild what the meta tag has lost.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    if app.find_problems is None or not await should_look(app.store, identity):
        return False
    is_lost = False
    try:
        is_lost = await record_losses(app.store)
    except _EXPECTED as error:
        log.warning("cannot record what masters have lost: %r", error)
    found = await app.find_problems(app)
    described = {
        each.id: (each.since_ms, ProblemDescription(each.rule, each.severity, each.what))
        for each in found.problems
        if each.rule != "data_lost" or "@" in each.subject  # a page may have kept what it read
    }
    await record_problems(app.store, identity, described, is_complete=found.is_complete)
    return is_lost


async def _rebuild(app: App, identity: str, rebuilding: trio.Lock) -> None:
    """Rebuild what the meta tag has lost while this process looks for problems on and on.

    So its turn is the claim: another process takes both over 35 seconds after this one has died.
    """
    async with rebuilding:
        try:
            await rebuild(app.store, partial(should_look, app.store, identity))
        except RedisReplyError as error:
            log.warning("the list of queues lacks those that are not used again yet: %s", error)
            await trio.sleep(_REFUSED_S)
        except OJSError as error:
            log.warning("cannot rebuild the list of queues yet: %r", error)
        except Exception:  # nothing that serves requests ends because of it
            log.exception("cannot rebuild the list of queues")
