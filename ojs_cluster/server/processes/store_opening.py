"""Opening the store at a process's start, when Redis may not be there yet."""

from __future__ import annotations

import contextlib
import logging

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.errors import AuthenticationFailed, NoSuchDatabase, RedisReplyError
from ojs_cluster.server.config.load import Settings
from ojs_cluster.server.processes.child_process import Refused, leaves
from ojs_cluster.store.context import Store
from ojs_cluster.store.open import open_store
from ojs_cluster.store.operations.rights import MissingRights
from ojs_cluster.store.operations.schema import UnusableBackend

log = logging.getLogger("ojs.process")

_RETRY_MIN_S, _RETRY_MAX_S = 0.2, 5.0
# A password that is refused may be in the middle of its rotation: on the server before it is here,
# or the other way about. So the process lives, is not ready, and says why.
_MAY_PASS = (BackendUnavailable, RedisReplyError, AuthenticationFailed, MissingRights)


async def open_patiently(stack: contextlib.AsyncExitStack, settings: Settings) -> Store:
    """Open the store into `stack` as soon as Redis allows; tries until cancelled.

    Ending instead would leave the retrying to whoever starts processes, who does it more slowly
    and takes it for a crash.

    Raises:
        Refused: Redis answers, but its data or its configuration must not be used, or it has no
            database of the configured number.
    """
    delay = _RETRY_MIN_S
    while True:
        try:
            return await stack.enter_async_context(
                open_store(settings.redis.client(), settings.store, shards=settings.shards)
            )
        except (Exception, BaseExceptionGroup) as error:
            causes = list(leaves(error))
            for cause in causes:
                if isinstance(cause, UnusableBackend):
                    raise Refused(str(cause)) from error
                if isinstance(cause, NoSuchDatabase):
                    raise Refused(f"REDIS_URL: {cause}") from error
            if not all(isinstance(cause, _MAY_PASS) for cause in causes):
                raise
            log.warning("Redis cannot be used yet, trying again: %s", causes[0])
        await trio.sleep(delay)
        delay = min(delay * 2, _RETRY_MAX_S)
