"""The API keys of a process, from variables and from the file ``OJS_API_KEYS_FILE``.

A process reads the file when it starts, when the file has changed, and at SIGHUP. The new API keys
apply from the next request on. While the changed file is invalid, the previous API keys stay
accepted, because a mistake in the file must not lock out every client.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from functools import partial
from typing import Final

import trio

from ojs_cluster.core.access.key_file import KeyFileError
from ojs_cluster.core.access.scopes import Keyring, changed_names
from ojs_cluster.http.access.audit import Audit
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.server.config.settings import AccessSettings
from ojs_cluster.server.read_api_keys import read_keys
from ojs_cluster.server.tls import file_version

log = logging.getLogger("ojs.http")

CHECK_S: Final = 3.0
"""Time in seconds between two checks whether the file has changed."""


class ApiKeys:
    """The API keys that one process accepts."""

    def __init__(
        self, settings: AccessSettings, environ: Mapping[str, str], audit: Audit | None = None
    ) -> None:
        """Accept the API keys of variables. If there is a file, accept no API key before ``load``.

        Args:
            settings: the path of the file, and the API keys of variables.
            environ: the environment, with the variables that ``secret_env`` in the file names.
            audit: the audit that records each reload, but not the first load.
        """
        self._settings = settings
        self._audit = audit
        self._loaded: Keyring | None = None
        self._environ = dict(environ)
        self._read_version = file_version(settings.keys_file)
        keyring = Keyring({}, {}) if settings.keys_file else read_keys(settings, environ)
        self.access = AccessControl(
            keyring, allow_insecure=self._is_open, refuse_all=keyring.is_empty
        )
        """The check of API keys for requests."""

    @property
    def _is_open(self) -> bool:
        settings = self._settings
        return settings.allow_insecure and not settings.keys and not settings.keys_file

    async def load(self, stop: trio.Event) -> None:
        """Read the file; while it is invalid, read it again until ``stop`` is set.

        A process that starts with an invalid file has no previous API keys to accept, so it waits.
        """
        while self._settings.keys_file and not await self._reload() and not stop.is_set():
            with trio.move_on_after(CHECK_S):
                await stop.wait()

    async def watch(self) -> None:
        """Reload the file when it changes and at SIGHUP; run until cancelled."""
        if not self._settings.keys_file:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reload_at_hangup)
            while True:
                await trio.sleep(CHECK_S)
                if file_version(self._settings.keys_file) != self._read_version:
                    await self._reload()

    async def _reload_at_hangup(self) -> None:
        with trio.open_signal_receiver(signal.SIGHUP) as received:
            async for _ in received:
                await self._reload()

    async def _reload(self) -> bool:
        """Read the file and accept its API keys; return whether the file is valid."""
        self._read_version = file_version(self._settings.keys_file)
        try:
            # In a thread, because thousands of API keys would block the event loop for too long.
            read = partial(read_keys, self._settings, self._environ)
            keyring = await trio.to_thread.run_sync(read)
        except KeyFileError as error:
            log.error(  # noqa: TRY400 - the message is enough for the operator
                "OJS_API_KEYS_FILE=%r cannot be used, so the previous API keys stay valid: %s",
                self._settings.keys_file,
                error,
            )
            self._record("invalid_key_file", {})
            return False
        self.access.replace(keyring)
        log.info("API keys loaded", extra={"keys": len(keyring.principals)})
        if self._loaded is not None:
            self._record("ok", changed_names(self._loaded, keyring))
        self._loaded = keyring
        return True

    def _record(self, outcome: str, changes: Mapping[str, list[str]]) -> None:
        if self._audit is not None and self._loaded is not None:
            self._audit.record_reload(outcome, changes)
