"""An OIDC issuer in this process: it signs what a test asks for, and answers as badly as a test asks for."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as make_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as make_rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "live-avatar"
TENANT = "team-a"
_MAKERS: Mapping[str, Any] = {
    "RS256": (lambda: make_rsa(65537, 2048), RSAAlgorithm),
    "ES256": (lambda: make_ec(SECP256R1()), ECAlgorithm),
    "EdDSA": (Ed25519PrivateKey.generate, OKPAlgorithm),
}


class SigningKey:
    """A private key, its id, and its public half as the issuer publishes it."""

    def __init__(self, key_id: str, algorithm: str = "ES256") -> None:
        make, self._form = _MAKERS[algorithm]
        self.key_id, self.algorithm, self.private = key_id, algorithm, make()

    @property
    def public(self) -> dict[str, Any]:
        form: dict[str, Any] = self._form.to_jwk(self.private.public_key(), as_dict=True)
        return {**form, "kid": self.key_id, "alg": self.algorithm, "use": "sig"}

    @property
    def private_form(self) -> dict[str, Any]:
        form: dict[str, Any] = self._form.to_jwk(self.private, as_dict=True)
        return {**form, "kid": self.key_id, "alg": self.algorithm, "use": "sig"}

    @property
    def public_pem(self) -> bytes:
        pem: bytes = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem


@dataclass
class FakeIssuer:
    """What it publishes, and how it answers."""

    keys: list[SigningKey]
    url: str = ""
    names_itself: str = ""
    """In its configuration; empty: by its URL."""
    jwks_uri: str = ""
    delay_s: float = 0.0
    padding_bytes: int = 0
    redirect: str = ""
    status: int = 200
    document: object = None
    """Instead of the key set."""
    requests: list[str] = field(default_factory=list)
    """Paths, in the order of their requests."""

    @property
    def key_requests(self) -> int:
        return self.requests.count("/jwks")

    def token(self, key: SigningKey | None = None, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """A valid token, but for what ``headers`` and ``claims`` say otherwise; what is None is left out."""
        now, signer = int(time.time()), key or self.keys[0]
        payload = {"iss": self.url, "aud": AUDIENCE, "sub": "robot", "iat": now, "exp": now + 60, "tenant": TENANT}
        payload = _given({**payload, "scope": "sessions", **claims})
        return jwt.encode(payload, signer.private, signer.algorithm, _given({"kid": signer.key_id, **(headers or {})}))

    def answer(self, path: str) -> bytes:
        if path == "/jwks":
            found = self.document or {"keys": [key.public for key in self.keys]}
        else:
            found = {"issuer": self.names_itself or self.url, "jwks_uri": self.jwks_uri or f"{self.url}/jwks"}
        return json.dumps(found).encode() + b" " * self.padding_bytes


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@contextmanager
def fake_issuer(*keys: SigningKey) -> Iterator[FakeIssuer]:
    """An issuer on a free port."""
    issuer = FakeIssuer(list(keys))
    ending = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.requests.append(self.path)
            ending.wait(issuer.delay_s)
            body = issuer.answer(self.path)
            try:
                self.send_response(302 if issuer.redirect else issuer.status)
                if issuer.redirect:
                    self.send_header("Location", issuer.redirect)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                return  # nobody waits any more

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer.url = f"http://127.0.0.1:{server.server_port}"
        serving = threading.Thread(target=server.serve_forever, args=(0.02,))
        serving.start()
        try:
            yield issuer
        finally:
            ending.set()
            server.shutdown()
            serving.join()
