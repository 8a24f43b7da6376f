"""Open the store when a process starts. Redis may not be available yet."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.errors import AuthenticationFailed, NoSuchDatabase, RedisReplyError
from ojs_cluster.server.config.load import Settings
from ojs_cluster.server.supervision.child_process import StartRefused, leaf_exceptions
from ojs_cluster.store.context import Store
from ojs_cluster.store.open import open_store
from ojs_cluster.store.operators.migrations.layout import UnusableBackend
from ojs_cluster.store.operators.operations.rights import MissingRights

log = logging.getLogger("ojs.process")

_RETRY_MIN_S, _RETRY_MAX_S = 0.2, 5.0
_TEMPORARY_ERRORS = (BackendUnavailable, RedisReplyError, AuthenticationFailed, MissingRights)
"""Errors after which the process tries again. A refused password is one of them, because a password
is not changed in Redis and in the configuration at the same moment."""


async def open_store_when_ready(stack: contextlib.AsyncExitStack, settings: Settings) -> Store:
    """Open the store as soon as Redis can be used; try until cancelled. ``stack`` closes the store.

    (Rejected: to end the process after an error. Its supervisor would restart it with growing
    delays and report crashes.)

    Raises:
        StartRefused: Redis answers, but its data or configuration cannot be used, or it does not
            have the database number of ``REDIS_URL``.
    """
    delay = _RETRY_MIN_S
    store_settings = replace(settings.store, webhooks=settings.webhooks)
    while True:
        try:
            return await stack.enter_async_context(
                open_store(settings.redis.client(), store_settings, shards=settings.shards)
            )
        except (Exception, BaseExceptionGroup) as error:
            causes = list(leaf_exceptions(error))
            for cause in causes:
                if isinstance(cause, UnusableBackend):
                    raise StartRefused(str(cause)) from error
                if isinstance(cause, NoSuchDatabase):
                    raise StartRefused(f"REDIS_URL: {cause}") from error
            if not all(isinstance(cause, _TEMPORARY_ERRORS) for cause in causes):
                raise
            log.warning("Redis cannot be used yet, trying again: %s", causes[0])
        await trio.sleep(delay)
        delay = min(delay * 2, _RETRY_MAX_S)
