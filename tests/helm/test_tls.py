"""TLS of the chart: certificates from every source, used by services as rendered, kept by upgrades."""

import asyncio
import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from cryptography import x509
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from live_avatar.serving.certificate_files import read_identity
from live_avatar.serving.interceptors import ErrorInterceptor
from live_avatar.serving.observer import NoObserver
from live_avatar.serving.peer_names import PeerNames
from live_avatar.serving.settings import ClientTlsSettings, ServerTlsSettings
from live_avatar.serving.tls import ClientTls, ServerTls
from tests.helm.matrix import samples
from tests.helm.rendering import (
    CHART,
    HAS_SDK,
    NAMESPACE,
    RELEASE,
    SECRETS,
    Document,
    RefusedError,
    Values,
    arguments,
    containers,
    merged,
    named,
    of_kind,
    pipeline_pod,
    pods,
    render,
    render_texts,
)

SAMPLES = samples()
PLAIN = {name: SAMPLES[name] for name in ("tls-off",)}
ENCRYPTED: dict[str, Values] = {
    name: SAMPLES[name] for name in ("pvc", "1x4", "tls-certManager", "tls-issuer", "tls-clients") if name in SAMPLES
}
FOLDER = "/etc/live-avatar-tls"
OWN: Values = merged(SECRETS, {"tls": {"mode": "own", "names": ["avatar.example.com", "10.1.2.3"]}})


def gateway_of(documents: list[Document]) -> Document:
    (container,) = named(documents, "Deployment", "-gateway")["spec"]["template"]["spec"]["containers"]
    return dict(container)


@pytest.mark.parametrize("name", ENCRYPTED)
def test_what_is_reached_from_outside_the_pod_demands_certificates_and_the_rest_listens_on_loopback(name: str) -> None:
    documents = render(ENCRYPTED[name])
    head, *middle, decoder = pipeline_pod(documents)["containers"]
    ours, gateways = f"{RELEASE}-live-avatar-pipeline.{NAMESPACE}.svc", f"{RELEASE}-live-avatar-gateway.{NAMESPACE}.svc"
    for container, names in ((head, [gateways]), (decoder, [gateways, ours])):
        flags = arguments(container)
        assert flags["server.tls.client-ca"] == f"{FOLDER}/ca.crt"
        assert flags["server.tls.allowed-names"].split(",") == names
    for stage in middle:
        flags = arguments(stage)
        assert flags["server.host"] == "127.0.0.1"
        assert flags["server.health-host"] == "0.0.0.0"
        assert ("tls.ca" in flags) == (stage is middle[-1]), "the last stage calls the decoder"
    assert arguments(middle[-1])["tls.server-name"] == ours
    assert arguments(gateway_of(documents))["tls.server-name"] == ours


def test_stages_listen_on_loopback_in_plain_text_too() -> None:
    documents = render(SAMPLES["tls-off"])
    everyone = [*pipeline_pod(documents)["containers"], gateway_of(documents)]
    assert [flag for one in everyone for flag in one["args"] if "tls" in flag] == []
    assert {arguments(one)["server.host"] for one in pipeline_pod(documents)["containers"][1:-1]} == {"127.0.0.1"}
    assert of_kind(documents, "Certificate", "Issuer") == []


@pytest.mark.parametrize("name", ENCRYPTED)
def test_every_file_of_a_flag_is_mounted_from_a_secret(name: str) -> None:
    documents = render(ENCRYPTED[name])
    for owner, _, pod in pods(documents):
        volumes = {volume["name"]: volume.get("secret") for volume in pod.get("volumes", [])}
        for container in containers(pod):
            mounts = {one["mountPath"]: volumes.get(one["name"]) for one in container.get("volumeMounts", [])}
            files = [flag.partition("=")[2] for flag in container.get("args", []) if f"={FOLDER}" in flag]
            for file in files:
                assert mounts[file.rpartition("/")[0]], f"{owner}: {file}"
            assert bool(files) == any(path.startswith(FOLDER) for path in mounts), owner


def test_the_chart_reads_the_secrets_that_it_is_given() -> None:
    given = {"gateway": "public", "gatewayClient": "inner", "pipeline": "chain"}
    documents = render(
        {"tls": {"existingSecret": given, "clients": {"existingSecret": "callers", "names": ["a", "b"]}}}
    )
    spec = named(documents, "Deployment", "-gateway")["spec"]["template"]["spec"]
    secrets = {one["name"]: one["secret"]["secretName"] for one in spec["volumes"] if "secret" in one}
    assert secrets == {"tls-server": "public", "tls-client": "inner", "tls-clients": "callers"}
    flags = arguments(gateway_of(documents))
    assert flags["server.tls.client-ca"] == f"{FOLDER}/clients/ca.crt"
    assert flags["server.tls.allowed-names"] == "a,b"
    assert [one["secret"]["secretName"] for one in pipeline_pod(documents)["volumes"] if "secret" in one] == ["chain"]
    assert of_kind(documents, "Pod") == [], "the test's command has no certificate to show"


def test_an_issuer_of_ones_own_certifies_what_clients_see_alone() -> None:
    documents = render(SAMPLES["tls-issuer"])
    issuers = {one["metadata"]["name"]: one["spec"]["issuerRef"] for one in of_kind(documents, "Certificate")}
    assert issuers.pop(f"{RELEASE}-live-avatar-gateway-tls") == {
        "name": "letsencrypt",
        "kind": "ClusterIssuer",
        "group": "cert-manager.io",
    }
    assert {one["name"] for one in issuers.values()} == {
        f"{RELEASE}-live-avatar-tls-ca",
        f"{RELEASE}-live-avatar-tls-self-signed",
    }
    public = named(documents, "Certificate", "-gateway-tls")["spec"]
    assert public["dnsNames"] == ["avatar.example.com"]
    assert "ipAddresses" not in public
    (test,) = named(documents, "Pod", "-test")["spec"]["containers"]
    assert "--gateway=grpcs://avatar.example.com:443" in test["args"]


def test_certificates_of_cert_manager_are_those_that_pods_mount() -> None:
    documents = render(SAMPLES["tls-certManager"])
    made = {one["spec"]["secretName"] for one in of_kind(documents, "Certificate")}
    mounted = {
        volume["secret"]["secretName"]
        for _, _, pod in pods(documents)
        for volume in pod.get("volumes", [])
        if "secret" in volume and volume["name"].startswith("tls")
    }
    assert mounted == made - {f"{RELEASE}-live-avatar-tls-ca"}, "nobody mounts the authority's key"


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        ({"mode": "own"}, "tls.mode: own makes certificates in the cluster"),
        ({"existingSecret": {"pipeline": ""}}, "tls.existingSecret: .* needs gateway and pipeline"),
        ({"mode": "certManager", "certManager": {"issuer": {"name": "x"}}}, "gateway.endpoint or tls.names"),
        ({"clients": {"names": ["x"]}}, "tls.clients.names: they need tls.clients.existingSecret"),
        ({"mode": "letsencrypt"}, "/tls/mode"),
        ({"names": ["not a name"]}, "/tls/names/0"),
    ],
)
def test_what_makes_no_sense_is_refused(tls: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError, match=f"(?s){message}"):
        render_texts({"tls": tls})


def test_two_renderings_have_the_same_certificates() -> None:
    for name in ENCRYPTED:
        assert render_texts(ENCRYPTED[name]) == render_texts(ENCRYPTED[name], upgrade=True)


Secrets = dict[str, dict[str, str]]
needs_sdk = pytest.mark.skipif(not HAS_SDK, reason="another chart is rendered with helm-python-sdk alone")


def in_cluster(folder: Path, there: Secrets, values: Values = OWN) -> Secrets:
    """Data of the Secrets with certificates that a cluster gets, in which ``there`` are some already."""
    import helm_python

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(CHART, folder)
    cases = "".join(
        f'{{{{- if eq (last .) "{name}" -}}}}{json.dumps(data)}{{{{- else -}}}}' for name, data in there.items()
    )
    replace_definition(folder / "templates" / "_gateway.tpl", "seesCluster", "true")
    replace_definition(folder / "templates" / "_tls.tpl", "secretData", cases + "{}" + "{{- end -}}" * len(there))
    chart = helm_python.Chart.load(folder)
    texts = chart.render(dict(values), name=RELEASE, namespace=NAMESPACE, revision=1, is_install=True, is_upgrade=False)
    text = next(text for path, text in texts.items() if path.endswith("tls/own.yaml"))
    documents = [one for one in yaml.safe_load_all(text) if one]
    return {one["metadata"]["name"].removeprefix(f"{RELEASE}-live-avatar-"): one["data"] for one in documents}


def replace_definition(file: Path, name: str, body: str) -> None:
    """Another body for what a template defines: no cluster is there to ask."""
    pattern = rf'({{{{- define "live-avatar.{name}" -}}}}\n).*?\n({{{{- end }}}}\n)'
    text, count = re.subn(pattern, lambda match: match[1] + body + match[2], file.read_text(), flags=re.DOTALL)
    assert count == 1
    file.write_text(text)


def full_names(secrets: Secrets) -> Secrets:
    return {f"{RELEASE}-live-avatar-{name}": data for name, data in secrets.items()}


def certificate(data: dict[str, str], key: str = "tls.crt") -> x509.Certificate:
    return x509.load_pem_x509_certificate(base64.b64decode(data[key]))


@needs_sdk
def test_an_authority_of_the_chart_certifies_its_components(tmp_path: Path) -> None:
    secrets = in_cluster(tmp_path / "chart", {})
    assert set(secrets) == {"tls-ca", "gateway-tls", "gateway-client-tls", "pipeline-tls"}
    authority = certificate(secrets.pop("tls-ca"))
    for name, data in secrets.items():
        assert certificate(data, "ca.crt") == authority
        certificate(data).verify_directly_issued_by(authority)
        for key in ("tls.crt", "tls.key"):
            (tmp_path / key).write_bytes(base64.b64decode(data[key]))
        names = read_identity(tmp_path / "tls.crt", tmp_path / "tls.key", "server").names
        assert read_identity(tmp_path / "tls.crt", tmp_path / "tls.key", "client").names == names
        assert f"{RELEASE}-live-avatar-{name.split('-')[0]}.{NAMESPACE}.svc" in names
        if name == "gateway-tls":
            assert {"avatar.example.com", "10.1.2.3", "localhost", "127.0.0.1"} < set(names)


@needs_sdk
def test_an_upgrade_keeps_the_certificates_until_names_or_authority_change(tmp_path: Path) -> None:
    made = in_cluster(tmp_path / "chart", {})
    there = full_names(made)
    assert in_cluster(tmp_path / "chart", there) == made
    renamed = in_cluster(tmp_path / "chart", there, merged(OWN, {"tls": {"names": ["other.example.com"]}}))
    assert {name for name in made if renamed[name] != made[name]} == {"gateway-tls"}
    certificate(renamed["gateway-tls"]).verify_directly_issued_by(certificate(made["tls-ca"]))
    without = {name: data for name, data in there.items() if not name.endswith("tls-ca")}
    fresh = in_cluster(tmp_path / "chart", without)
    assert {name for name in made if fresh[name]["tls.crt"] != made[name]["tls.crt"]} == set(made)


@needs_sdk
def test_services_reach_each_other_with_what_the_chart_makes(tmp_path: Path) -> None:
    """The rendered flags with the rendered Secrets: the gateway and the last stage reach the decoder."""
    secrets = in_cluster(tmp_path / "chart", {})
    for name, data in secrets.items():
        (tmp_path / name).mkdir()
        for key, value in data.items():
            (tmp_path / name / key).write_bytes(base64.b64decode(value))
    documents = render({})
    *_, stage, decoder = pipeline_pod(documents)["containers"]
    server = settings_of(decoder, "server.tls.", {FOLDER: str(tmp_path / "pipeline-tls")})
    last = settings_of(stage, "tls.", {FOLDER: str(tmp_path / "pipeline-tls")})
    gateway = settings_of(gateway_of(documents), "tls.", {f"{FOLDER}/client": str(tmp_path / "gateway-client-tls")})
    assert asyncio.run(reach(server, [last, gateway])) == 2
    stranger = {name: gateway[name] for name in ("ca", "server_name")}
    with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
        asyncio.run(reach(server, [stranger]))


def settings_of(container: Document, prefix: str, folders: dict[str, str]) -> dict[str, str]:
    """What a container is given under a prefix, with other folders."""
    settings = {}
    for flag, value in arguments(container).items():
        if flag.startswith(prefix):
            for folder, other in folders.items():
                value = value.replace(folder, other)
            settings[flag.removeprefix(prefix).replace("-", "_")] = value
    return settings


async def reach(server: dict[str, str], clients: list[dict[str, str]]) -> int:
    """How many clients get an answer from a server with these settings."""
    tls = ServerTlsSettings.model_validate(server)
    listener = grpc.aio.server(interceptors=[ErrorInterceptor(), PeerNames(tls.allowed_names)])
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), listener)
    port = listener.add_secure_port("127.0.0.1:0", ServerTls(tls, NoObserver()).credentials())
    await listener.start()
    try:
        for client in clients:
            tls_of_client = ClientTls(ClientTlsSettings.model_validate(client), NoObserver())
            async with tls_of_client.channel(f"127.0.0.1:{port}", ()) as channel:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
    finally:
        await listener.stop(None)
    return len(clients)
