"""What a schema cannot see: that names which must be equal are, and that pods are as closed as they can be."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from live_avatar.services.vae_decoder.service import PORTRAITS as DECODER_RULES
from live_avatar.serving.decode_pool import PoolRules
from tests.helm.matrix import combinations, samples
from tests.helm.rendering import Document, containers, merged, named, of_kind, pods, render

SAMPLES = samples()
ALL = {**SAMPLES, **{"-".join(names): values for names, values in combinations()}}
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
WARM_PROCESS, SERVICE_ITSELF = 40 << 20, 320 << 20
"""Bytes of a decoding process before its first portrait, and of a gateway without any."""
NAMES = Path(__file__).parent / "released_names.json"
SUFFIXES = {
    "": 1,
    "m": 1e-3,
    "k": 1e3,
    "Ki": 2**10,
    "M": 1e6,
    "Mi": 2**20,
    "G": 1e9,
    "Gi": 2**30,
    "T": 1e12,
    "Ti": 2**40,
}


def amount(quantity: str | float) -> float:
    match = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(quantity))
    assert match is not None, quantity
    return float(match[1]) * SUFFIXES[match[2]]


def pods_of_all() -> Iterator[tuple[str, Document, Document]]:
    for name, values in ALL.items():
        for owner, metadata, pod in pods(render(values)):
            yield f"{name}: {owner}", metadata, pod


def test_containers_ports_and_mounts_fit_together() -> None:
    for where, _, pod in pods_of_all():
        everyone = containers(pod)
        names = [container["name"] for container in everyone]
        assert len(names) == len(set(names)), where
        ports = [port for container in everyone for port in container.get("ports", [])]
        assert len({port["name"] for port in ports}) == len({port["containerPort"] for port in ports}) == len(ports), (
            where
        )
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        mounted = {mount["name"] for container in everyone for mount in container.get("volumeMounts", [])}
        assert mounted - volumes <= {"data"}, where  # of a claim template
        assert volumes <= mounted, where
        for container in everyone:
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            assert len(paths) == len(set(paths)), where


def test_probes_ask_the_health_port_of_their_own_container() -> None:
    for where, _, pod in pods_of_all():
        for container in pod["containers"]:
            asked = {
                container[probe]["grpc"]["service"]: container[probe]["grpc"]["port"]
                for probe in PROBES
                if "grpc" in container.get(probe, {})
            }
            if not asked:
                continue
            (health,) = (port["containerPort"] for port in container["ports"] if port["name"].startswith("health"))
            assert asked == {"startup": health, "readiness": health, "liveness": health}, where


def test_requests_are_within_limits_and_everyone_has_limits() -> None:
    for where, _, pod in pods_of_all():
        for container in containers(pod):
            limits, requests = container["resources"]["limits"], container["resources"]["requests"]
            assert {"cpu", "memory"} <= set(limits), where
            for name, asked in requests.items():
                assert amount(asked) <= amount(limits[name]), f"{where}: {name}"


def test_a_gateway_and_a_decoder_have_memory_for_all_portraits_at_once() -> None:
    cases = {"gateway": PoolRules(), "vae-decoder": DECODER_RULES}
    for where, _, pod in pods_of_all():
        for container in containers(pod):
            rules = cases.pop(container["name"], None)
            if rules is not None:
                wanted = rules.processes * (rules.memory_bytes + WARM_PROCESS) + SERVICE_ITSELF
                assert wanted <= amount(container["resources"]["limits"]["memory"]), where
    assert not cases, "these are the names of the containers"


def test_every_container_is_closed() -> None:
    for where, _, pod in pods_of_all():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, where
        assert security["runAsUser"] > 0, where
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert not any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")), where
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
            }, where
            assert not any(port.get("hostPort") for port in container.get("ports", [])), where


def test_only_gateways_that_ask_the_cluster_have_a_token() -> None:
    for where, _, pod in pods_of_all():
        asks = "/rel-live-avatar-gateway" in where and not where.startswith(("dns", "static"))
        assert pod["automountServiceAccountToken"] is asks, where
        assert ("serviceAccountName" in pod) is asks, where
        assert pod["enableServiceLinks"] is False, where


def test_host_folders_are_mounted_for_weights_alone() -> None:
    for where, _, pod in pods_of_all():
        paths = [volume["hostPath"]["path"] for volume in pod.get("volumes", []) if "hostPath" in volume]
        assert set(paths) <= {"/var/lib/live-avatar/weights"}, where
        assert bool(paths) == ("hostPath" in where.partition(":")[0] and "pipeline" in where), where
        for container in containers(pod):
            readers = [mount for mount in container.get("volumeMounts", []) if mount["mountPath"] == "/weights"]
            assert all(mount.get("readOnly") for mount in readers) == (
                container["name"] != "copy-weights" or not readers
            )


def test_access_is_exactly_that() -> None:
    rules = named(render(SAMPLES["pvc"]), "Role", "-gateway")["rules"]
    lease = ["rel-live-avatar-reaper"]
    assert [(rule["resources"], rule["verbs"], rule.get("resourceNames")) for rule in rules] == [
        (["endpointslices"], ["list", "watch"], None),
        (["leases"], ["create"], None),
        (["leases"], ["get", "update"], lease),
    ]
    for name in ("dns", "static"):
        assert of_kind(render(SAMPLES[name]), "Role", "RoleBinding", "ServiceAccount") == []


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def selectors_of(document: Document) -> list[dict[str, str]]:
    """Everything in an object that chooses pods of this release."""
    spec: dict[str, Any] = document["spec"]
    found = []
    if document["kind"] == "Service":
        found.append(spec["selector"])
    if document["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
        found.append(spec["selector"]["matchLabels"])
    if document["kind"] == "NetworkPolicy":
        found.append(spec["podSelector"]["matchLabels"])
        rules = [*spec.get("ingress", []), *spec.get("egress", [])]
        peers = [peer for rule in rules for peer in [*rule.get("from", []), *rule.get("to", [])]]
        found += [peer["podSelector"]["matchLabels"] for peer in peers if peer.get("podSelector")]
    return found


@pytest.mark.parametrize("name", ["pvc", "auth-external", "cpu", "dns"])
def test_selectors_choose_pods_that_are_there(name: str) -> None:
    documents = render(SAMPLES[name])
    labels = [metadata["labels"] for _, metadata, _ in pods(documents)]
    for document in of_kind(documents, "Service", "Deployment", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy"):
        for selector in selectors_of(document):
            chosen = {one["app.kubernetes.io/component"] for one in labels if matches(selector, one)}
            assert chosen == {selector["app.kubernetes.io/component"]}, document["metadata"]["name"]


def ports_behind(service: Document, documents: list[Document]) -> dict[str, int]:
    """Ports of the pod that a Service leads to."""
    (pod,) = (pod for _, metadata, pod in pods(documents) if matches(service["spec"]["selector"], metadata["labels"]))
    return {port["name"]: port["containerPort"] for one in pod["containers"] for port in one["ports"]}


@pytest.mark.parametrize("name", SAMPLES)
def test_services_lead_to_ports_that_are_there(name: str) -> None:
    documents = render(SAMPLES[name])
    for service in of_kind(documents, "Service"):
        ports = ports_behind(service, documents)
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports, service["metadata"]["name"]
            if service["spec"].get("clusterIP") == "None":
                assert port["port"] == ports[port["targetPort"]], "a headless Service does not translate ports"


def test_network_policies_let_through_what_is_needed_and_no_more() -> None:
    documents = render(SAMPLES["pvc"])
    policies = {one["metadata"]["name"].rpartition("-")[2]: one["spec"] for one in of_kind(documents, "NetworkPolicy")}
    assert set(policies) == {"pipeline", "gateway", "redis"}
    pipeline = policies["pipeline"]
    gateways, health, metrics = pipeline["ingress"]
    assert [port["port"] for port in gateways["ports"]] == [7000, 7099]
    assert [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in gateways["from"]] == [
        "gateway"
    ]
    opened = {port["port"] for port in [*health["ports"], *metrics["ports"]]}
    pod = named(documents, "StatefulSet", "-pipeline")["spec"]["template"]["spec"]
    ports = {port["name"]: port["containerPort"] for one in pod["containers"] for port in one["ports"]}
    assert opened == {number for name, number in ports.items() if not name.startswith("grpc")}
    assert pipeline["egress"] == policies["redis"]["egress"] == []
    assert all(spec["policyTypes"] == ["Ingress", "Egress"] for spec in policies.values())
    assert "from" not in policies["gateway"]["ingress"][0]
    closed = named(render(SAMPLES["everything"]), "NetworkPolicy", "-gateway")["spec"]["ingress"][0]["from"]
    assert {"namespaceSelector": {}} in closed
    assert closed[0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test"
    assert of_kind(render(SAMPLES["open"]), "NetworkPolicy") == []


def identities(documents: list[Document]) -> dict[str, Any]:
    """What must not change between versions: names, and what pods are selected by."""
    return {
        f"{document['kind']}/{document['metadata']['name']}": selectors_of(document)
        if document["kind"] in ("Service", "Deployment", "StatefulSet", "PodDisruptionBudget")
        else []
        for document in documents
    }


def test_an_upgrade_keeps_names_and_selectors() -> None:
    """``released_names.json`` is what the last version rendered with its defaults."""
    before = json.loads(NAMES.read_text())
    for upgrade in (False, True):
        now = identities(render({}, upgrade=upgrade))
        assert {name: now.get(name) for name in before} == before


def test_a_change_of_values_keeps_selectors() -> None:
    plain, changed = (
        {name: selectors for name, selectors in identities(render(values)).items() if selectors}
        for values in (SAMPLES["pvc"], merged(SAMPLES["everything"], {"image": {"tag": "9.9.9"}}))
    )
    assert plain == changed


def test_long_and_own_names_stay_within_limits() -> None:
    for values, release in (
        ({"fullnameOverride": "f" * 60}, "rel"),
        ({"nameOverride": "n" * 60}, "r" * 53),
        ({"trainer": {"backend": "job"}}, "r" * 53),
    ):
        for document in render(values, release=release):
            # Names of pods add up to eleven characters, and become names of hosts.
            most = 52 if document["kind"] in ("Deployment", "StatefulSet", "Job", "Service") else 63
            assert len(document["metadata"]["name"]) <= most
            assert all(len(value) <= 63 for value in document["metadata"]["labels"].values())


def test_a_restart_follows_a_change_of_the_system_alone() -> None:
    def annotations(description: dict[str, Any]) -> Any:
        model = {"preset": "MINE", "description": {"name": "MINE", **description}}
        documents = render(merged(SAMPLES["random"], {"model": model}))
        return [metadata.get("annotations", {}).get("checksum/preset") for _, metadata, _ in pods(documents)]

    assert annotations({"a": 1}) == annotations({"a": 1}) != annotations({"a": 2})
