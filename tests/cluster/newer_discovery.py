"""``discovery.k8s.io/v1`` in front of an API server that has only its beta version, which says the same.

Knows HTTP; of what passes only the name of that version.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import urllib3

from .servers import ApiServer

_NEW, _OLD = "discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"
_TIMEOUT = urllib3.Timeout(connect=10.0, read=120.0)


@contextmanager
def newer(server: ApiServer) -> Iterator[ApiServer]:
    """The same server for clients of the newer version."""
    with urllib3.PoolManager(ca_certs=str(server.certificates), num_pools=1, maxsize=32) as pool:
        front = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        front.daemon_threads = True
        front.pool, front.upstream = pool, server.url  # type: ignore[attr-defined]
        thread = threading.Thread(target=front.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield ApiServer(f"http://127.0.0.1:{front.server_port}", server.token)
        finally:
            front.shutdown()
            front.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 120

    def handle(self) -> None:
        """Takes requests until either side ends."""
        with suppress(OSError, urllib3.exceptions.HTTPError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).replace(f'{_NEW}"'.encode(), f'{_OLD}"'.encode())
        headers = {name: self.headers[name] for name in ("Authorization", "Accept") if name in self.headers}
        answer = self.server.pool.request(  # type: ignore[attr-defined]
            self.command,
            self.server.upstream + self.path.replace(f"/{_NEW}/", f"/{_OLD}/"),  # type: ignore[attr-defined]
            body=body or None,
            # A server takes a body without a type for JSON.
            headers={"Content-Type": self.headers.get("Content-Type") or "application/json", **headers},
            preload_content=False,
            retries=False,
            timeout=_TIMEOUT,
        )
        try:
            self._pass_on(answer)
        finally:
            answer.close()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _pass_on(self, answer: urllib3.HTTPResponse) -> None:
        """The answer line by line, as the events of a watch are written."""
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        rest = b""
        for piece in answer.stream(amt=None, decode_content=False):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._write(line + b"\n")
        if rest:
            self._write(rest)
        self.wfile.write(b"0\r\n\r\n")

    def _write(self, line: bytes) -> None:
        line = line.replace(f'{_OLD}"'.encode(), f'{_NEW}"'.encode())
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
