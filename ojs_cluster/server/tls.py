"""TLS for the API: the files of the certificate, and the handshakes of new connections.

The streams are trio's ``SSLStream``, which hypercorn can serve after the handshake. A process
checks periodically whether its files have changed, so new connections use a renewed certificate
without a restart.
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
"""Minimum time in seconds between two checks of the files."""


class TlsFilesError(Exception):
    """The files cannot be used; the message names the file and the reason."""


def make_context(listen: ListenSettings) -> ssl.SSLContext:
    """Return an SSL context with the files of ``listen``.

    Raises:
        TlsFilesError: the files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # With TLS 1.2 renegotiation a client could use much CPU time without sending a request.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2", "http/1.1"])
    cert, key = listen.tls_cert, listen.tls_key
    _check_readable("OJS_TLS_CERT", cert)
    _check_readable("OJS_TLS_KEY", key)
    try:
        # Without this callback OpenSSL would ask for the passphrase at the terminal.
        context.load_cert_chain(cert, key, password=_refuse_passphrase)
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
            TlsFilesError: the files cannot be used.
        """
        self._listen = listen
        self._loaded_versions = _versions(listen)
        self._context = make_context(listen)
        self._next_check_at = trio.current_time() + CHECK_FILES_S
        self._handshakes: set[trio.CancelScope] = set()
        self._drained = False

    async def secure(self, stream: trio.SocketStream) -> TlsStream | None:
        """Return the TLS stream after a handshake within the read timeout.

        If the handshake fails, close ``stream`` and return None.
        """
        self._reload_changed_files()
        # HTTPS clients close connections without close_notify. https_compatible accepts that. It is
        # safe, because HTTP itself marks the end of a body.
        tls_stream = trio.SSLStream(stream, self._context, server_side=True, https_compatible=True)
        with trio.move_on_after(self._listen.read_timeout_s) as scope:
            self._handshakes.add(scope)
            try:
                if not self._drained:
                    await tls_stream.do_handshake()
                    return tls_stream
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                # Not a warning, because port scans and clients without TLS would fill the log.
                log.debug("no TLS handshake: %s", error.__cause__ or error)
            finally:
                self._handshakes.discard(scope)
        await trio.aclose_forcefully(stream)
        return None

    def drain(self) -> None:
        """Close all connections whose handshake is not complete; they carry no request yet."""
        self._drained = True
        for scope in self._handshakes:
            scope.cancel()

    def _reload_changed_files(self) -> None:
        """Load files that have changed; if they cannot be used, keep the previous certificate."""
        if trio.current_time() < self._next_check_at:
            return
        self._next_check_at = trio.current_time() + CHECK_FILES_S
        versions = _versions(self._listen)
        if versions == self._loaded_versions:
            return
        try:
            self._context = make_context(self._listen)
        except TlsFilesError as error:
            # Perhaps only one file has been replaced so far. The next check tries again.
            log.warning(
                "the new certificate cannot be used, so the previous one stays in use: %s", error
            )
            return
        self._loaded_versions = versions
        log.info("the TLS certificate was reloaded")


def _check_readable(name: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise TlsFilesError(f"{name}={path!r}: cannot be read ({error.strerror})") from error


def _refuse_passphrase() -> str:
    raise ValueError("the private key has a passphrase")


def _versions(listen: ListenSettings) -> list[tuple[int, int, int] | None]:
    """Return the ``file_version`` of each configured file."""
    paths = (listen.tls_cert, listen.tls_key, listen.tls_client_ca)
    return [file_version(path) for path in paths if path]


def file_version(path: str) -> tuple[int, int, int] | None:
    """Return a value that changes when the file is written or replaced; None if it is missing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
