"""Follows the EndpointSlices of a Service: lists once, then watches.

Blocks, so it has a thread to itself.  Knows the API server's answers; nothing of pipelines.  Needs the verbs ``list``
and ``watch`` on ``endpointslices`` of ``discovery.k8s.io`` in the Service's namespace, and nothing else.
"""

import json
import random
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import structlog
import urllib3
from kubernetes.client import ApiException, DiscoveryV1Api

from live_avatar.services.gateway.cluster import ObjectName
from live_avatar.services.gateway.discovery.slices import Slice
from live_avatar.serving.streams.backoff import Backoff

_GONE, _FIRST_ERROR = 410, 300
_SERVICE_LABEL = "kubernetes.io/service-name"
_LOST = (urllib3.exceptions.HTTPError, OSError)
"""How a connection can fail; what was received before stays valid."""
_REFUSED = (ApiException, ValueError, KeyError, TypeError)
"""What an answer can be: an error, or a malformed one.  What was received before is in doubt."""

Changed = Callable[[Mapping[str, Slice]], None]
"""Takes all slices by name; may keep nothing of the mapping."""


@dataclass(frozen=True, kw_only=True)
class WatchTiming:
    """Waits of a watch, in seconds."""

    answer_s: float = 10.0
    """From a question to its answer, and between two pieces of one."""
    watch_s: float = 60.0
    """Longest life of one watch; a connection that died in silence is found out so much later, and ``answer_s``."""
    backoff_min_s: float = 0.2
    backoff_max_s: float = 15.0


class ExpiredError(Exception):
    """The server no longer knows what came after the version it was asked for."""


class SliceWatch:
    """The slices of one Service; ``follow`` in one thread, ``stop`` in any other.

    Args:
        api: client of the API server.
        service: which one.
        timing: waits.
    """

    def __init__(self, api: DiscoveryV1Api, service: ObjectName, timing: WatchTiming) -> None:
        self._api = api
        self._service = service
        self._timing = timing
        self._slices: dict[str, Slice] = {}
        self._version = ""
        """As far as ``_slices`` is true; empty: not at all."""
        self._stopping = threading.Event()
        self._reading: urllib3.HTTPResponse | None = None
        self._log = structlog.get_logger(__name__).bind(service=str(service))

    def follow(self, changed: Changed) -> None:
        """Tells ``changed`` after every list and every event, until ``stop``."""
        backoff = Backoff(self._timing.backoff_min_s, self._timing.backoff_max_s)
        while not self._stopping.is_set():
            began_at = self._version
            if self._live_once(changed) or self._version not in ("", began_at):
                backoff.reset()
            self._stopping.wait(backoff.next_s())

    def stop(self) -> None:
        """Ends ``follow``, also where it waits for the server."""
        self._stopping.set()
        connection = self._reading.connection if self._reading else None
        if isinstance(connection, HTTPConnection) and connection.sock is not None:
            with suppress(OSError):
                # To close the response would wait for its reader; this wakes it.
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _live_once(self, changed: Changed) -> bool:
        """One watch, and a list before it where one is due; whether it ended as it should."""
        try:
            if not self._version:
                self._list()
                changed(self._slices)
            for event in self._events():
                self._apply(event)
                changed(self._slices)
        except ExpiredError:
            self._version = ""
        except _REFUSED as error:
            self._version = ""
            self._report(error)
        except _LOST as error:
            self._report(error)
        else:
            return True
        return False

    def _list(self) -> None:
        response = self._ask()
        listed = json.loads(response.data)
        self._slices = {one["metadata"]["name"]: one for one in listed["items"] or ()}
        self._version = str(listed["metadata"]["resourceVersion"])

    def _apply(self, event: Mapping[str, Any]) -> None:
        """Takes one event into account."""
        kind, what = event["type"], event["object"]
        if kind == "ERROR":
            if what.get("code") == _GONE:
                raise ExpiredError
            raise ApiException(status=what.get("code"), reason=what.get("message"))
        metadata = what["metadata"]
        if kind == "DELETED":
            self._slices.pop(metadata["name"], None)
        elif kind != "BOOKMARK":
            self._slices[metadata["name"]] = what
        self._version = str(metadata["resourceVersion"])

    def _events(self) -> Iterator[Mapping[str, Any]]:
        """Every event from now on, until the server ends the watch, which it is asked to do now and then.

        An event that is cut off by the end of the connection is not passed on: the next watch sends it again.
        """
        response = self._ask(watch_s=max(1, round(self._timing.watch_s * random.uniform(0.75, 1.0))))
        self._reading = response
        try:
            rest = b""
            # Whoever stops it before it reads cannot wake it.
            pieces = () if self._stopping.is_set() else response.stream(amt=None, decode_content=False)
            for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                yield from (json.loads(line) for line in lines if line)
        finally:
            self._reading = None
            response.close()

    def _ask(self, watch_s: int | None = None) -> urllib3.HTTPResponse:
        """The server's answer, unread: a list, or what changes for ``watch_s`` seconds.

        Raises:
            ExpiredError, ApiException: it refuses.
        """
        response: object = self._api.list_namespaced_endpoint_slice(
            self._service.namespace,
            label_selector=f"{_SERVICE_LABEL}={self._service.name}",
            watch=watch_s is not None,
            resource_version=self._version or None,
            allow_watch_bookmarks=watch_s is not None,
            timeout_seconds=watch_s,
            # A server that neither sends nor ends is given up, as one that does not answer at all.
            _request_timeout=(self._timing.answer_s, (watch_s or 0) + self._timing.answer_s),
            _preload_content=False,
        )
        assert isinstance(response, urllib3.HTTPResponse), "content that is not loaded stays in the response"
        if response.status == _GONE:
            raise ExpiredError
        if response.status >= _FIRST_ERROR:
            raise ApiException(status=response.status, reason=response.data.decode(errors="replace"))
        return response

    def _report(self, error: Exception) -> None:
        if not self._stopping.is_set():
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._log.warning("the API server cannot be followed", reason=reason)
