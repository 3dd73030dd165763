"""A real cluster without nodes: etcd, an API server and its controllers, as processes of this machine.

Knows programs and HTTP; nothing of the chart.  ``tools/containers/build_cluster.sh`` makes the programs.
"""

import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

ROOT = Path(__file__).parents[2]
_BUILD = ROOT / "tools" / "containers" / "build_cluster.sh"
_LACKS = 3
"""Exit code of that program where this machine cannot have a cluster."""
_START_S, _STOP_S = 60.0, 10.0
_GATES = "--feature-gates=EndpointSliceTerminatingCondition=true,EndpointSliceNodeName=true"
# No nodes are watched: the tests play the only one there is.
_CONTROLLERS = "--controllers=*,-nodelifecycle,-cloud-node-lifecycle,-nodeipam"
JSON = "application/json"
MERGE = "application/strategic-merge-patch+json"

Body = dict[str, Any]


class RefusedError(Exception):
    """The API server says no; carries the code and reason of its Status."""

    def __init__(self, code: int, status: Mapping[str, Any]) -> None:
        super().__init__(f"{code} {status.get('reason')}: {status.get('message')}")
        self.code = code
        self.reason = status.get("reason")


@dataclass(frozen=True)
class ApiServer:
    """Where an API server is, and who asks it."""

    url: str
    token: str
    certificates: Path | None = None
    """Whom to trust; None: no TLS."""

    def ask(
        self, method: str, path: str, body: Body | None = None, *, kind: str = JSON, **query: str
    ) -> tuple[int, Body]:
        """Code and answer of one request; raises RefusedError where it is refused."""
        with urllib3.PoolManager(ca_certs=self.certificates and str(self.certificates)) as pool:
            response = pool.request(
                method,
                self.url + path + ("?" + "&".join(f"{name}={value}" for name, value in query.items()) if query else ""),
                body=None if body is None else json.dumps(body),
                headers={"Authorization": f"Bearer {self.token}", "Content-Type": kind},
                retries=False,
                timeout=10.0,
            )
        events = "watch" in query and response.status < 300
        # Events are many objects, and /readyz answers in words.
        whole = response.data[:1] == b"{" and not events
        answer: Body = json.loads(response.data) if whole else {"message": response.data}
        if response.status >= 300:
            raise RefusedError(response.status, answer)
        return response.status, answer

    def as_account(self, namespace: str, name: str) -> "ApiServer":
        """The same server, asked by a service account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        _, answer = self.ask("POST", path, request)
        return ApiServer(self.url, answer["status"]["token"], self.certificates)

    def kubeconfig(self, folder: Path) -> Path:
        """A file that tells clients of it."""
        cluster: Body = {"server": self.url}
        if self.certificates is not None:
            cluster["certificate-authority"] = str(self.certificates)
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": "tests", "user": {"token": self.token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "tests"}}],
            "current-context": "lab",
        }
        file = folder / "kubeconfig"
        file.write_text(yaml.safe_dump(config))
        return file


@contextmanager
def running(folder: Path) -> Iterator[ApiServer]:
    """A cluster of its own in ``folder``, asked by its administrator; skips the test where there can be none."""
    programs = _programs()
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f"{token},admin,1,system:masters\n")
    key = folder / "accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    client, peer, secure = _free_ports(3)
    etcd = f"http://127.0.0.1:{client}"
    server = ApiServer(f"https://127.0.0.1:{secure}", token, folder / "certificates" / "apiserver.crt")
    with ExitStack() as stack:
        own = f"http://127.0.0.1:{peer}"
        members = [f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}", f"--listen-peer-urls={own}"]
        stack.enter_context(_process(folder, "etcd", [f"--data-dir={folder}/etcd", "--log-level=error", *members]))
        flags = _api_server_flags(folder, key, etcd, secure)
        stack.enter_context(_process(folder, str(programs / "kube-apiserver"), flags))
        _await_ready(server, folder)
        flags = _controller_flags(folder, key, server)
        stack.enter_context(_process(folder, str(programs / "kube-controller-manager"), flags))
        yield server


def _programs() -> Path:
    """The folder of the servers' programs; builds them where they are not there yet, which takes minutes."""
    done = subprocess.run([str(_BUILD)], capture_output=True, text=True, check=False)
    if done.returncode == _LACKS:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr[-4000:]
    return Path(os.environ.get("LIVE_AVATAR_CLUSTER") or Path.home() / ".cache/live-avatar/cluster")


def _api_server_flags(folder: Path, key: Path, etcd: str, port: int) -> list[str]:
    return [
        f"--etcd-servers={etcd}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={folder}/certificates",
        f"--token-auth-file={folder}/tokens.csv",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--service-account-issuer=https://tests",
        f"--service-account-signing-key-file={key}",
        f"--service-account-key-file={key}",
        # Pods of the tests are made before the account's token is.
        "--disable-admission-plugins=ServiceAccount",
        _GATES,
    ]


def _controller_flags(folder: Path, key: Path, server: ApiServer) -> list[str]:
    return [
        f"--kubeconfig={server.kubeconfig(folder)}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--port=0",
        "--bind-address=127.0.0.1",
        f"--secure-port={_free_ports(1)[0]}",
        f"--service-account-private-key-file={key}",
        f"--cert-dir={folder}/certificates-of-controllers",
        _CONTROLLERS,
        _GATES,
    ]


@contextmanager
def _process(folder: Path, program: str, flags: Sequence[str]) -> Iterator[None]:
    """A program that runs as long as the context; what it says goes to a file named after it."""
    with (folder / f"{Path(program).name}.log").open("wb") as log:
        process = subprocess.Popen([program, *flags], stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_ready(server: ApiServer, folder: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        with suppress(urllib3.exceptions.HTTPError, OSError, RefusedError):
            server.ask("GET", "/readyz")
            return
        assert time.monotonic() < deadline, (folder / "kube-apiserver.log").read_text()[-4000:]
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens at; another may take one before it is used, which ends the tests with an error."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
