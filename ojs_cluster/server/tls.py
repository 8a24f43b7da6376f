"""TLS for the API: the certificate's files, and the handshakes of new connections.

It uses trio's ``SSLStream``, which hypercorn can take over. A process checks its files
periodically, so new connections get a renewed certificate without a restart.
"""

from __future__ import annotations

import logging
import os
import ssl
from typing import Final

import trio

from ojs_cluster.server.config.settings import ListenSettings

log = logging.getLogger("ojs.http")

TlsStream = trio.SSLStream[trio.SocketStream]

CHECK_FILES_S: Final = 10.0
"""Shortest time between two checks of the files."""


class TlsFilesError(Exception):
    """The files cannot be used; the message says which and why."""


def make_context(listen: ListenSettings) -> ssl.SSLContext:
    """Return an SSL context with the files of ``listen``.

    Raises:
        TlsFilesError: they cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # TLS 1.2 renegotiation costs CPU time without a request.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2", "http/1.1"])
    cert, key = listen.tls_cert, listen.tls_key
    _check_readable("OJS_TLS_CERT", cert)
    _check_readable("OJS_TLS_KEY", key)
    try:
        # Without a password callback OpenSSL would prompt at the terminal.
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise TlsFilesError(
            f"OJS_TLS_CERT={cert!r} and OJS_TLS_KEY={key!r}: not a PEM certificate chain and its "
            f"private key ({reason})"
        ) from error
    if listen.tls_client_ca:
        _check_readable("OJS_TLS_CLIENT_CA", listen.tls_client_ca)
        try:
            context.load_verify_locations(listen.tls_client_ca)
        except ssl.SSLError as error:
            raise TlsFilesError(
                f"OJS_TLS_CLIENT_CA={listen.tls_client_ca!r}: no PEM certificates ({error.reason})"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Tls:
    """The handshakes of one process."""

    def __init__(self, listen: ListenSettings) -> None:
        """Read the files.

        Raises:
            TlsFilesError: they cannot be used.
        """
        self._listen = listen
        self._seen = _versions(listen)
        self._context = make_context(listen)
        self._next_check_at = trio.current_time() + CHECK_FILES_S
        self._handshakes: set[trio.CancelScope] = set()
        self._drained = False

    async def secure(self, stream: trio.SocketStream) -> TlsStream | None:
        """Return the stream after its handshake, or close it and return None.

        The handshake has to end within the read timeout.
        """
        self._reload_changed_files()
        # Clients close connections without close_notify; HTTP itself marks the end of a body.
        secured = trio.SSLStream(stream, self._context, server_side=True, https_compatible=True)
        with trio.move_on_after(self._listen.read_timeout_s) as scope:
            self._handshakes.add(scope)
            try:
                if not self._drained:
                    await secured.do_handshake()
                    return secured
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                # Plain HTTP, port scans and disconnects: a line for each would fill the log.
                log.debug("no TLS handshake: %s", error.__cause__ or error)
            finally:
                self._handshakes.discard(scope)
        await trio.aclose_forcefully(stream)
        return None

    def drain(self) -> None:
        """Close connections without a completed handshake: they carry no request yet."""
        self._drained = True
        for scope in self._handshakes:
            scope.cancel()

    def _reload_changed_files(self) -> None:
        """Use files that have changed; keep the old certificate while they cannot be used."""
        if trio.current_time() < self._next_check_at:
            return
        self._next_check_at = trio.current_time() + CHECK_FILES_S
        seen = _versions(self._listen)
        if seen == self._seen:
            return
        try:
            self._context = make_context(self._listen)
        except TlsFilesError as error:  # perhaps only one of them has been replaced yet
            log.warning("the new certificate cannot be used, the old one stays: %s", error)
            return
        self._seen = seen
        log.info("certificate renewed")


def _check_readable(name: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise TlsFilesError(f"{name}={path!r}: cannot be read ({error.strerror})") from error


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def _versions(listen: ListenSettings) -> list[tuple[int, int, int] | None]:
    """Return values that change when a file is written or replaced."""
    paths = (listen.tls_cert, listen.tls_key, listen.tls_client_ca)
    return [file_version(path) for path in paths if path]


def file_version(path: str) -> tuple[int, int, int] | None:
    """Return a value that changes when the file is written or replaced; None if it is missing."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
