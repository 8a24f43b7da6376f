"""The API keys of a process: those of variables, and those of ``OJS_API_KEYS_FILE``.

A process reads the file at its start, after a change, and at SIGHUP. A change applies from the next
request. While the changed file is invalid, the previous keys stay accepted: a mistake in the file
must not lock out every client.
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
from ojs_cluster.http.access.authentication import AccessControl
from ojs_cluster.server.config.settings import AccessSettings
from ojs_cluster.server.read_api_keys import read_keys
from ojs_cluster.server.tls import file_version

log = logging.getLogger("ojs.http")

CHECK_S: Final = 3.0
"""How often a process checks whether the file has changed."""


class ApiKeys:
    """The keys that one process accepts; they follow the file."""

    def __init__(
        self, settings: AccessSettings, environ: Mapping[str, str], audit: Audit | None = None
    ) -> None:
        """Accept no key yet, unless no file is configured.

        Args:
            settings: names the file, and has the keys of variables.
            environ: the variables that the file's ``secret_env`` name.
            audit: where reloads are recorded, but not the first load.
        """
        self._settings = settings
        self._audit = audit
        self._present: Keyring | None = None
        self._environ = dict(environ)
        self._seen = file_version(settings.keys_file)
        keyring = Keyring({}, {}) if settings.keys_file else read_keys(settings, environ)
        self.access = AccessControl(
            keyring, allow_insecure=self._is_open, refuse_all=keyring.is_empty
        )
        """What requests are checked against."""

    @property
    def _is_open(self) -> bool:
        settings = self._settings
        return settings.allow_insecure and not settings.keys and not settings.keys_file

    async def load(self, stop: trio.Event) -> None:
        """Read the file; wait until it can be used, or until ``stop`` is set.

        A process that starts while the file is invalid has no previous keys.
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
                if file_version(self._settings.keys_file) != self._seen:
                    await self._reload()

    async def _reload_at_hangup(self) -> None:
        with trio.open_signal_receiver(signal.SIGHUP) as received:
            async for _ in received:
                await self._reload()

    async def _reload(self) -> bool:
        """Accept the keys of the file; return whether it could be used."""
        self._seen = file_version(self._settings.keys_file)
        try:
            # In a thread: thousands of keys take longer than a request may wait.
            read = partial(read_keys, self._settings, self._environ)
            keyring = await trio.to_thread.run_sync(read)
        except KeyFileError as error:
            log.error(  # noqa: TRY400 - a traceback would say nothing more
                "OJS_API_KEYS_FILE=%r cannot be used, so the previous API keys stay valid: %s",
                self._settings.keys_file,
                error,
            )
            self._record("invalid_key_file", {})
            return False
        self.access.replace(keyring)
        log.info("API keys loaded", extra={"keys": len(keyring.principals)})
        if self._present is not None:
            self._record("ok", changed_names(self._present, keyring))
        self._present = keyring
        return True

    def _record(self, outcome: str, changes: Mapping[str, list[str]]) -> None:
        if self._audit is not None and self._present is not None:
            self._audit.record_reload(outcome, changes)
