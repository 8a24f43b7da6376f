"""A small OpenID provider over HTTP on a loopback address. It signs with keys of its own."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

CLIENT_ID, CLIENT_SECRET = "ojs dashboard", "a:secret/of+this server"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def public_key(private: Any, key_id: str) -> dict[str, Any]:
    """Return the JSON Web Key of a private key."""
    is_rsa = isinstance(private, rsa.RSAPrivateKey)
    algorithm: Any = jwt.algorithms.RSAAlgorithm if is_rsa else jwt.algorithms.ECAlgorithm
    found = algorithm.to_jwk(private.public_key(), as_dict=True)
    return {**found, "kid": key_id, "use": "sig"}


@dataclass
class OpenIdProvider:
    """What the provider does at the next login."""

    issuer: str = ""
    claims: dict[str, Any] = field(default_factory=dict)
    """Claims of the next ID token that differ; None leaves a claim out."""
    sign: Callable[[dict[str, Any]], str] | None = None
    """Makes the next ID token of its claims, instead of a signature by ``keys``."""
    keys: dict[str, Any] = field(default_factory=lambda: {"rsa": RSA_KEY})
    """The private keys by their ids; the last one signs."""
    sends_to: str = ""
    """Where a page of the provider sends browsers instead of the host that the login names. Empty
    for a redirect to that host without a page."""
    answers: threading.Event = field(default_factory=threading.Event)
    """Whether the token endpoint answers; if not, it waits."""
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def reset(self) -> None:
        """Behave again as providers do."""
        self.claims, self.sign = {}, None
        self.answers.set()

    def authorize(self, asked: dict[str, str]) -> str:
        """Log the user in, and return where the browser goes."""
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT_ID
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        brought = {"code": code, "state": asked["state"], "iss": self.issuer}
        target = urlsplit(asked["redirect_uri"])
        host = self.sends_to or f"{target.scheme}://{target.netloc}"
        return f"{host}{target.path}?{urlencode(brought)}"

    def redeem(self, fields: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """Return an ID token for a code, once."""
        assert self.answers.wait(60)
        pair = base64.b64decode(authorization.removeprefix("Basic ")).decode()
        if pair != "ojs+dashboard:a%3Asecret%2Fof%2Bthis+server":
            return 401, {"error": "invalid_client"}
        asked = self.codes.pop(fields["code"], None)
        digest = hashlib.sha256(fields["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if asked is None or (challenge, fields["redirect_uri"]) != (
            asked["code_challenge"],
            asked["redirect_uri"],
        ):
            return 400, {"error": "invalid_grant"}
        return 200, {"access_token": "x", "token_type": "Bearer", "id_token": self.token(asked)}

    def token(self, asked: dict[str, str]) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": "248289761001",
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            "email": "ann@example.com",
            "email_verified": True,
            "groups": ["ops"],
            **self.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        if self.sign is not None:
            return self.sign(claims)
        key_id, key = list(self.keys.items())[-1]
        algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        return jwt.encode(claims, key, algorithm, {"kid": key_id})


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, provider: OpenIdProvider, *given: Any) -> None:
        self.provider = provider
        super().__init__(*given)

    def do_GET(self) -> None:
        parts, issuer = urlsplit(self.path), self.provider.issuer
        self.provider.requests.append(parts.path)
        if parts.path == "/authorize":
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            target = self.provider.authorize(asked)
            page = f'<a href="{html.escape(target)}">Yes, it is me</a>'.encode()
            if self.provider.sends_to:
                self._answer(200, page, "text/html")
            else:
                self._answer(302, b"", "text/html", target)
        elif parts.path == "/keys":
            keys = [public_key(key, key_id) for key_id, key in self.provider.keys.items()]
            self._answer_json(200, {"keys": keys})
        else:
            assert parts.path == "/.well-known/openid-configuration"
            endpoints = {
                "authorization_endpoint": f"{issuer}/authorize",
                "token_endpoint": f"{issuer}/token",
                "jwks_uri": f"{issuer}/keys",
            }
            self._answer_json(200, {"issuer": issuer, **endpoints})

    def do_POST(self) -> None:
        self.provider.requests.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        fields = {name: values[0] for name, values in parse_qs(body).items()}
        self._answer_json(*self.provider.redeem(fields, self.headers["Authorization"]))

    def _answer_json(self, status: int, content: dict[str, Any]) -> None:
        self._answer(status, json.dumps(content).encode(), "application/json")

    def _answer(self, status: int, body: bytes, kind: str, location: str = "") -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def open_id_provider(host: str = "127.0.0.1") -> Iterator[OpenIdProvider]:
    """Serve a provider under a name of this machine."""
    provider = OpenIdProvider()
    handler: Any = partial(_Handler, provider)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        provider.reset()
        provider.issuer = f"http://{host}:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield provider
        server.shutdown()
