"""The public keys of an OIDC issuer: a set of them, and the task that keeps it fresh.

Knows JSON Web Keys and when to fetch them; nothing of tokens.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK, PyJWTError

from live_avatar.services.gateway.access.issuer import IssuerClient, IssuerError, check_url
from live_avatar.serving.streams.backoff import Backoff

_WELL_KNOWN = ".well-known/openid-configuration"
_MAX_KEYS = 100
_MAX_WAITING = 256
"""Calls that may wait for a fetch at the same time."""
_MIN_RSA_BITS = 2048
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519"}
_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


@dataclass(frozen=True)
class KeySet:
    """Keys by the id and the algorithm of the tokens that they check."""

    keys: Mapping[tuple[str, str], PyJWK] = field(default_factory=dict)
    """Key id "" is that of a key without an id."""
    identity: frozenset[str] = frozenset()
    """Tells whether two sets hold the same keys."""

    def find(self, key_id: str | None, algorithm: str) -> PyJWK | None:
        """The key for a token; without a key id the only one that fits the algorithm."""
        if key_id is not None:
            return self.keys.get((key_id, algorithm))
        fitting = [key for (_, name), key in self.keys.items() if name == algorithm]
        return fitting[0] if len(fitting) == 1 else None


def parse_key_set(document: Mapping[str, Any], algorithms: Sequence[str]) -> KeySet:
    """The keys of a JWKS document that are for signatures by one of ``algorithms``; leaves out all others.

    Raises:
        ValueError: it is no key set, has too many keys, or none that fits.
    """
    entries = document.get("keys")
    if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
        raise ValueError(f"no list of at most {_MAX_KEYS} keys")
    keys: dict[tuple[str, str], PyJWK] = {}
    for entry in entries:
        if isinstance(entry, dict):
            keys.update(_keys_of(entry, algorithms))
    if not keys:
        raise ValueError(f"no key for {', '.join(algorithms)}")
    return KeySet(keys, frozenset(json.dumps(entry, sort_keys=True) for entry in entries))


def _keys_of(entry: Mapping[str, Any], algorithms: Sequence[str]) -> Iterator[tuple[tuple[str, str], PyJWK]]:
    key_id = entry.get("kid", "")
    if entry.get("use", "sig") != "sig" or not isinstance(key_id, str):
        return
    for algorithm in algorithms:
        if entry.get("alg", algorithm) != algorithm or not _fits(entry, algorithm):
            continue
        try:
            key = PyJWK.from_dict(dict(entry), algorithm)
        except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
            continue
        if not isinstance(key.key, RSAPublicKey) or key.key.key_size >= _MIN_RSA_BITS:
            yield (key_id, algorithm), key


def _fits(entry: Mapping[str, Any], algorithm: str) -> bool:
    if entry.get("kty") != _TYPES[algorithm[:2]] or "d" in entry:
        return False
    return algorithm not in _CURVES or entry.get("crv") == _CURVES[algorithm]


class KeyObserver(Protocol):
    """Learns what becomes of the keys."""

    def issuer_keys(self, count: int) -> None:
        """So many keys are known."""

    def issuer_fetched(self, result: str) -> None:
        """A fetch ended: ``ok`` or ``failed``."""


@dataclass(frozen=True, kw_only=True)
class FetchTiming:
    """Rates of the fetches, in seconds."""

    refresh_s: float = 300.0
    backoff_min_s: float = 1.0
    backoff_max_s: float = 60.0
    burst: int = 3
    """Fetches for the sake of unknown key ids that may follow each other at once ..."""
    burst_s: float = 30.0
    """... in so long a time."""
    wait_s: float = 3.0
    """How long a token with an unknown key id waits for them."""


class IssuerKeys:
    """The issuer's keys as last fetched; ``run`` keeps them fresh.

    Args:
        issuer: its URL.
        jwks_uri: where its keys are; empty: where its configuration says.
        algorithms: for which keys are kept.
        client: fetches.
        observer: learns what comes of it.
        timing: rates.
    """

    def __init__(
        self,
        issuer: str,
        jwks_uri: str,
        algorithms: Sequence[str],
        client: IssuerClient,
        observer: KeyObserver,
        timing: FetchTiming | None = None,
    ) -> None:
        self._issuer, self._jwks_uri, self._algorithms = issuer, jwks_uri, algorithms
        self._client, self._observer, self._timing = client, observer, timing or FetchTiming()
        self._asked = asyncio.Event()
        self._fetched = asyncio.Event()
        self._waiting = 0
        self._requests: deque[float] = deque(maxlen=self._timing.burst)
        self._log = structlog.get_logger(__name__).bind(issuer=issuer)
        self.current = KeySet()
        """Empty until the first fetch succeeds."""
        self._changed: Callable[[], None] = lambda: None
        """Called when other keys are current."""
        self.last_failed = True
        """The last fetch gave nothing: what is not in ``current`` may still be a key of the issuer."""

    def on_change(self, changed: Callable[[], None]) -> None:
        """Calls ``changed`` when other keys are current."""
        self._changed = changed

    async def run(self) -> None:
        """Fetches again and again, until it is cancelled."""
        backoff = Backoff(self._timing.backoff_min_s, self._timing.backoff_max_s)
        while True:
            self._asked.clear()
            if await self._fetch():
                backoff.reset()
                wait_s = self._timing.refresh_s
            else:
                wait_s = backoff.next_s()
            fetched, self._fetched = self._fetched, asyncio.Event()
            fetched.set()
            try:
                async with asyncio.timeout(wait_s):
                    await self._asked.wait()
            except TimeoutError:
                continue

    async def refresh(self) -> None:
        """Returns once the keys were fetched again, or at once where that was done too often or takes too long."""
        if self._waiting >= _MAX_WAITING or not self._ask():
            return
        self._waiting += 1
        try:
            async with asyncio.timeout(self._timing.wait_s):
                await self._fetched.wait()
        except TimeoutError:
            return
        finally:
            self._waiting -= 1

    def _ask(self) -> bool:
        """Whether ``run`` is about to fetch, or now is because this may be asked for again."""
        now, timing = time.monotonic(), self._timing
        if self._asked.is_set():
            return True
        if len(self._requests) == timing.burst and now - self._requests[0] < timing.burst_s:
            return False
        self._requests.append(now)
        self._asked.set()
        return True

    async def _fetch(self) -> bool:
        try:
            found = await self._fetch_keys()
        except IssuerError as error:
            self._log.warning("keys of the OIDC issuer cannot be fetched", reason=str(error), keys=self._count)
            self.last_failed = True
            self._observer.issuer_fetched("failed")
            return False
        changed, self.current = found.identity != self.current.identity, found
        self.last_failed = False
        self._observer.issuer_fetched("ok")
        self._observer.issuer_keys(self._count)
        if changed:
            self._log.info("keys of the OIDC issuer", keys=sorted({key_id for key_id, _ in found.keys}))
            self._changed()
        return True

    async def _fetch_keys(self) -> KeySet:
        uri = self._jwks_uri or await self._client.fetch(f"{self._issuer.rstrip('/')}/{_WELL_KNOWN}", self._uri_in)
        return await self._client.fetch(uri, lambda document: parse_key_set(document, self._algorithms))

    def _uri_in(self, configuration: Mapping[str, Any]) -> str:
        """Where the keys are, according to the issuer's configuration."""
        if configuration.get("issuer") != self._issuer:
            raise ValueError(f"this is the configuration of the issuer {configuration.get('issuer')!r}")
        uri = configuration.get("jwks_uri")
        if not isinstance(uri, str):
            raise ValueError("the configuration has no jwks_uri")
        check_url(uri, named_by=self._issuer)
        return uri

    @property
    def _count(self) -> int:
        return len({key_id for key_id, _ in self.current.keys})
