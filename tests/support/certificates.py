"""Certificates for tests, made by openssl."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

OPENSSL = shutil.which("openssl")


def openssl(directory: Path, *args: str) -> None:
    """Run openssl in this folder."""
    assert OPENSSL is not None
    subprocess.run([OPENSSL, *args], check=True, capture_output=True, cwd=directory)


def make_certificates(directory: Path) -> None:
    """Create a CA with certificates of a server on 127.0.0.1 and a client, and another CA."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for ca in ("ca", "stranger"):
        openssl(
            directory, "req", "-x509", *key, "-days", "2", "-subj", f"/CN={ca}",
            "-addext", "keyUsage=critical,keyCertSign",
            "-keyout", f"{ca}.key", "-out", f"{ca}.crt",
        )  # fmt: skip
    for name in ("server", "client"):
        request = ("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", "csr")
        openssl(directory, "req", *key, *request)
        (directory / "san").write_text("subjectAltName=IP:127.0.0.1\n")
        openssl(
            directory, "x509", "-req", "-in", "csr", "-CA", "ca.crt", "-CAkey", "ca.key",
            "-days", "2", "-CAcreateserial", "-extfile", "san", "-out", f"{name}.crt",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Certificates:
    """A folder filled by ``make_certificates``."""

    files: Path

    @property
    def env(self) -> dict[str, str]:
        """Variables of an API process that serves the certificate."""
        return {
            "OJS_TLS_CERT": str(self.files / "server.crt"),
            "OJS_TLS_KEY": str(self.files / "server.key"),
        }

    def client(self, certificate: str | None = None) -> ssl.SSLContext:
        """Return a client context that trusts the CA and presents this certificate."""
        context = ssl.create_default_context(cafile=str(self.files / "ca.crt"))
        if certificate is not None:
            chain = self.files / certificate
            context.load_cert_chain(f"{chain}.crt", f"{chain}.key")
        return context


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Create the certificates once per session."""
    if OPENSSL is None:
        pytest.skip("needs openssl on PATH")
    directory = tmp_path_factory.mktemp("certificates")
    make_certificates(directory)
    return Certificates(directory)
