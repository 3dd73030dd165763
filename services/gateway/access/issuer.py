"""Documents of an OIDC issuer over HTTP: bounded in time and size, from the issuer's own host.

Each request has a daemon thread of its own, since a name look-up can hang for longer than anybody waits: neither the
event loop nor the end of the process waits for it.  Knows HTTP and JSON; nothing of keys or tokens.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import closing
from http.client import HTTPMessage, HTTPResponse
from pathlib import Path
from threading import BoundedSemaphore, Thread
from typing import IO, Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

from live_avatar.proxies import is_local

_MAX_BYTES = 256 * 1024
_CHUNK_BYTES = 16 * 1024
_SILENCE_S = 3.0
"""Longest wait for a single answer of the network."""
_ANSWER_S = 5.0
"""For a whole document."""
_MAX_PENDING = 2
"""Threads that may hang at the same time; further requests fail at once."""

_T = TypeVar("_T")


class IssuerError(Exception):
    """The issuer gave no usable document; the message is for the operator."""


def check_url(url: str, named_by: str = "") -> None:
    """Returns where ``url`` may be asked for documents.

    Args:
        url: what is asked.
        named_by: the URL of the issuer that names ``url``.

    Raises:
        ValueError: it is no https URL with a host, nor an http one on loopback that a loopback issuer names.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"https", "http"} or not parts.hostname or parts.username is not None or parts.fragment:
        raise ValueError(f"{url!r} is no URL of an issuer: https://host/path, without user and fragment")
    local = _is_local(url) and (not named_by or _is_local(named_by))
    if parts.scheme == "http" and not local:
        raise ValueError(f"{url!r} must begin with https: plain http is accepted on loopback only")


class IssuerClient:
    """Fetches JSON documents.

    Args:
        ca_file: CA certificates in PEM; None: those of the system.
        answer_s: for a whole document.

    Raises:
        OSError: ``ca_file`` cannot be read or holds no certificates.
    """

    def __init__(self, ca_file: Path | None = None, answer_s: float = _ANSWER_S) -> None:
        self._tls = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        self._answer_s = answer_s
        self._free = BoundedSemaphore(_MAX_PENDING)

    async def fetch(self, url: str, parse: Callable[[Mapping[str, Any]], _T]) -> _T:
        """What ``parse``, called in the thread, makes of the JSON object at ``url``.

        Raises:
            IssuerError: there is none in time, or it is not what ``parse`` expects.
        """
        if not self._free.acquire(blocking=False):
            raise IssuerError("earlier requests still hang")
        done: Future[_T] = Future()
        done.set_running_or_notify_cancel()  # from here on the thread alone settles it
        Thread(target=self._work, args=(url, parse, done), name="oidc-issuer", daemon=True).start()
        try:
            async with asyncio.timeout(self._answer_s):
                return await asyncio.wrap_future(done)
        except TimeoutError:
            raise IssuerError(f"{url} did not answer within {self._answer_s:g} s") from None
        except Exception as error:
            text = " ".join(str(error).split())
            raise IssuerError(f"{url}: {text or type(error).__name__}") from error

    def _work(self, url: str, parse: Callable[[Mapping[str, Any]], _T], done: "Future[_T]") -> None:
        try:
            result = self._parsed(url, parse)
        except Exception as error:  # noqa: BLE001 - raised again by the future
            done.set_exception(error)
        else:
            done.set_result(result)

    def _parsed(self, url: str, parse: Callable[[Mapping[str, Any]], _T]) -> _T:
        try:
            return parse(self._read(url))
        finally:
            self._free.release()

    def _read(self, url: str) -> Mapping[str, Any]:
        """The JSON object at ``url``; blocks."""
        handlers = [HTTPSHandler(context=self._tls), _SameOrigin()]
        opener = build_opener(*handlers, *([ProxyHandler({})] if _is_local(url) else []))
        request = Request(url, headers={"Accept": "application/json", "User-Agent": "live-avatar"})
        late = time.monotonic() + self._answer_s
        data = bytearray()
        with closing(_open(opener, request)) as answer:
            while piece := answer.read1(_CHUNK_BYTES):
                data += piece
                if len(data) > _MAX_BYTES:
                    raise ValueError(f"the document has more than {_MAX_BYTES} bytes")
                if time.monotonic() > late:
                    raise ValueError(f"the document takes longer than {self._answer_s:g} s")
        return _json_object(bytes(data))


def _open(opener: OpenerDirector, request: Request) -> HTTPResponse:
    """The answer with status 2xx."""
    try:
        answer: HTTPResponse = opener.open(request, timeout=_SILENCE_S)
    except HTTPError as error:
        error.close()
        raise ValueError(f"status {error.code}: {error.reason}") from None
    return answer


class _SameOrigin(HTTPRedirectHandler):
    """Follows redirects on the same origin alone."""

    max_redirections = 3

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        """The request to repeat there; raises HTTPError where it leads to another origin."""
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            raise HTTPError(req.full_url, code, "redirects to another host are not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_local(url: str) -> bool:
    return is_local(urlsplit(url).hostname or "")


def _json_object(data: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except RecursionError:
        raise ValueError("the document is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("the document is no JSON object")
    return found
