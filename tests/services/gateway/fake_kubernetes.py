"""An API server over real HTTP: lists, watches and writes, and every way in which such a server fails its clients.

Knows HTTP; ``fake_objects.py`` knows what is kept.  A test that holds for this server is run against a real one by
``make test-cluster``.
"""

import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from .fake_objects import Object, Objects, Place, RefusedError, Selector

TOKEN = "a-token-for-tests"
_POLL_S = 0.02
_VERBS = {"POST": "create", "PUT": "update", "DELETE": "delete"}


class FakeCluster:
    """The server and its faults."""

    def __init__(self) -> None:
        self.objects = Objects()
        self.asked: set[tuple[str, str]] = set()
        """Verb and resource of everything that was asked for, as roles name them."""
        self.lists = 0
        self.away = False
        """Connections end without an answer."""
        self.lose: int | None = None
        """So many answers are sent, then the connection ends after the server has done what it was asked; once."""
        self.error: int | None = None
        """Code with which everything is refused."""
        self.cuts = 0
        """How often watches were cut."""
        self.freezes = 0
        """How often watches were frozen."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.cluster = self  # type: ignore[attr-defined]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def cut(self) -> None:
        """Ends all watches in the middle of a line."""
        with self.objects.changed:
            self.cuts += 1
            self.objects.changed.notify_all()

    def freeze(self) -> None:
        """Leaves all watches that there are open, but sends nothing on them any more."""
        with self.objects.changed:
            self.freezes += 1

    def kubeconfig(self, folder: Path) -> Path:
        """A file that tells clients of it."""
        file = folder / "kubeconfig"
        file.write_text(yaml.safe_dump(kubeconfig_of(self.url, TOKEN)))
        return file

    @contextmanager
    def running(self) -> Iterator["FakeCluster"]:
        """Serves while the context lasts."""
        thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.cut()
            self._server.shutdown()
            self._server.server_close()


def kubeconfig_of(server: str, token: str) -> Object:
    """What a kubeconfig file holds."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "tests", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "tests"}}],
        "current-context": "lab",
    }


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 120

    @property
    def cluster(self) -> FakeCluster:
        """Whose connection it is."""
        cluster = self.server.cluster  # type: ignore[attr-defined]
        assert isinstance(cluster, FakeCluster)
        return cluster

    def handle(self) -> None:
        """Takes requests until either side ends."""
        with suppress(ConnectionError, TimeoutError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        if self.cluster.away:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        try:
            self._serve(body)
        except RefusedError as error:
            self._send(error.code, error.status())

    def _serve(self, body: Object) -> None:
        cluster, url = self.cluster, urlsplit(self.path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise RefusedError(401, "Unauthorized", "Unauthorized")
        if cluster.error is not None:
            raise RefusedError(cluster.error, "InternalError", "as told by the test")
        # /apis/GROUP/VERSION/namespaces/NAMESPACE/RESOURCE[/NAME]
        parts = url.path.strip("/").split("/")
        place, name = Place(parts[5], parts[4]), parts[6] if len(parts) > 6 else ""
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        watching = query.get("watch", "").lower() in ("1", "true")
        verb = _VERBS.get(self.command) or ("get" if name else "watch" if watching else "list")
        cluster.asked.add((verb, place.resource))
        selector = _selector(query.get("labelSelector", ""))
        match verb:
            case "watch":
                self._watch(place, selector, query)
            case "list":
                cluster.lists += 1
                self._send(200, cluster.objects.list(place, selector))
            case "get":
                self._send(200, cluster.objects.get(place, name))
            case "create":
                self._send(201, cluster.objects.create(place, body))
            case "update":
                self._send(200, cluster.objects.replace(place, name, body))
            case _:
                cluster.objects.delete(place, name)
                self._send(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _send(self, code: int, body: Object) -> None:
        if self.cluster.lose is not None:
            self.cluster.lose -= 1
            if self.cluster.lose < 0:
                self.cluster.lose = None
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _watch(self, place: Place, selector: Selector, query: dict[str, str]) -> None:
        """One event per line until the time is over, the test cuts it, or the client has gone."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        objects, cuts, freezes = self.cluster.objects, self.cluster.cuts, self.cluster.freezes
        version = int(query.get("resourceVersion") or 0)
        if not version:
            version = self._initial(place, selector)
        ends_at = time.monotonic() + float(query.get("timeoutSeconds", "300"))
        while time.monotonic() < ends_at:
            with objects.changed:
                if self.cluster.cuts != cuts:
                    self._break()
                    return
                if self.cluster.freezes != freezes:
                    objects.changed.wait(_POLL_S)
                    ends_at = math.inf
                    continue
                try:
                    changes = list(objects.since(place, version))
                except RefusedError as error:
                    self._event({"type": "ERROR", "object": error.status()})
                    break
                if not changes:
                    objects.changed.wait(_POLL_S)
            for change in changes:
                version = change.version
                if (event := change.event(selector)) is not None:
                    self._event(event)
        else:
            self._bookmark(place, version, query)
        self.wfile.write(b"0\r\n\r\n")

    def _initial(self, place: Place, selector: Selector) -> int:
        """Tells everything there is; returns the version of that."""
        listed = self.cluster.objects.list(place, selector)
        for one in listed["items"]:
            self._event({"type": "ADDED", "object": one})
        return int(listed["metadata"]["resourceVersion"])

    def _bookmark(self, place: Place, version: int, query: dict[str, str]) -> None:
        if query.get("allowWatchBookmarks", "").lower() == "true":
            self._event({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}})

    def _event(self, event: Object) -> None:
        line = json.dumps(event).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

    def _break(self) -> None:
        """Half of an event, and the end of the connection."""
        half = b'{"type":"DELETED","object":{"metadata":{"na'
        with suppress(OSError):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(half), half))
            self.connection.shutdown(socket.SHUT_RDWR)


def _selector(text: str) -> Selector:
    pairs = (part.partition("=") for part in text.split(",") if part)
    return Selector({name: value for name, _, value in pairs})
