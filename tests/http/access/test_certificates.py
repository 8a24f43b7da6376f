"""A client certificate has the rights of the key that names its subject."""

from __future__ import annotations

import re
import shutil
import ssl
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing

from ojs_cluster.http.access.certificate_subject import subject_of
from ojs_cluster.server.embedded.servers import Embedded
from tests.server.test_serve import serve
from tests.support.certificates import Certificates, openssl

CONFIG = """
oid_section = oids
[oids]
unknownToOthers = 1.2.3.4
[req]
distinguished_name = names
[names]
"""
SECURITY = Path(__file__).parents[3] / "docs" / "security.md"


def signed(certificates: Certificates, directory: Path, subject: str) -> ssl.SSLContext:
    """A client with a certificate for this subject."""
    for name in ("ca.crt", "ca.key"):
        shutil.copy(certificates.files / name, directory / name)
    (directory / "own.cnf").write_text(CONFIG)
    key = ("-config", "own.cnf", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    made = ("-nodes", "-multivalue-rdn", "-utf8", "-keyout", "own.key", "-out", "csr")
    openssl(directory, "req", *key, "-subj", subject, *made)
    openssl(
        directory, "x509", "-req", "-in", "csr", "-CA", "ca.crt", "-CAkey", "ca.key",
        "-days", "2", "-CAcreateserial", "-out", "own.crt",
    )  # fmt: skip
    context = certificates.client()
    context.load_cert_chain(directory / "own.crt", directory / "own.key")
    return context


@pytest.mark.parametrize("lane", ["0", "1"], ids=["hypercorn", "lane"])
@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
def test_a_certificate_has_the_rights_of_the_key_that_names_it(
    standalone: Embedded, certificates: Certificates, tmp_path: Path, lane: str, http2: bool
) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(
        '[[key]]\nname = "ci"\npreset = "producer"\nqueues = ["mail"]\n'
        'tls_subject = "CN=ci,O=Acme"\n'
    )
    env = {
        **certificates.env,
        "OJS_TLS_CLIENT_CA": str(certificates.files / "ca.crt"),
        "OJS_API_KEYS_FILE": str(keys),
        "OJS_API_KEY": "k",
        "OJS_FAST_LANE": lane,
    }
    own = signed(certificates, tmp_path, "/O=Acme/CN=ci")
    with serve(standalone.url, **env) as (running, port):
        running.wait_line("ready to serve")
        url = f"https://127.0.0.1:{port}/ojs/v1"

        def enqueue(context: ssl.SSLContext, queue: str, key: str = "", origin: str = "") -> int:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            headers |= {"Origin": origin} if origin else {}
            body = {"type": "t", "args": [], "options": {"queue": queue}}
            with httpx.Client(verify=context, http2=http2, timeout=60) as client:
                return client.post(f"{url}/jobs", json=body, headers=headers).status_code

        assert enqueue(own, "mail") == 201
        assert enqueue(own, "other") == 403
        assert enqueue(own, "other", "k") == 201, "a key goes before the certificate"
        assert enqueue(own, "mail", "wrong") == 401
        # A browser presents the certificate for the pages of every site.
        foreign, same = "https://evil.example", f"https://127.0.0.1:{port}"
        assert (enqueue(own, "mail", origin=foreign), enqueue(own, "mail", origin=same)) == (
            403,
            201,
        )
        assert enqueue(own, "mail", "k", foreign) == 201, "no page knows the key"
        stranger = certificates.client("client")  # signed, and named by no key
        assert enqueue(stranger, "mail") == 401
        assert enqueue(stranger, "mail", "k") == 201
        assert "Traceback" not in running.output


@pytest.mark.parametrize(
    "subject",
    [
        "/CN=ci",
        "/C=DE/O=Acme\\, Inc./OU=a+CN=b",
        "/CN=#x",
        "/DC=org/DC=acme/UID=7/CN=ü ",
        "/CN=a=b",
        "/GN=Ann/SN=Lee/street=Main 1/CN=é",
        "/uid=7/mail=a@b/jurisdictionC=DE/serialNumber=5/CN=\x01\x7f",
        "/unknownToOthers=x/CN=y",
    ],
)
async def test_a_subject_is_spelt_as_openssl_spells_it(
    certificates: Certificates, tmp_path: Path, subject: str
) -> None:
    client = signed(certificates, tmp_path, subject.replace("\\,", ","))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates.files / "server.crt", certificates.files / "server.key")
    server.load_verify_locations(certificates.files / "ca.crt")
    server.verify_mode = ssl.CERT_REQUIRED
    ours, theirs = trio.testing.memory_stream_pair()
    secured = trio.SSLStream(ours, server, server_side=True)
    other = trio.SSLStream(theirs, client, server_hostname="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(secured.do_handshake)
        await other.do_handshake()
    openssl_ = shutil.which("openssl")
    assert openssl_ is not None
    documented = re.search(r"`openssl (x509 -in mailer.crt [^`]+)` prints", SECURITY.read_text())
    assert documented is not None
    command = [openssl_, *documented[1].replace("mailer.crt", "own.crt").split()]
    printed = await trio.run_process(command, capture_stdout=True, cwd=tmp_path)
    shown = printed.stdout.decode().removeprefix("subject=").rstrip("\n")
    assert subject_of(secured) == shown
    assert subject_of(ours) == ""
