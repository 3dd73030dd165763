"""Each stage has a GPU of its own and performs its own steps, in every layout and every way of giving GPUs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest

from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo
from live_avatar.services.audio_encoder.readiness import HeadReadiness
from live_avatar.services.denoise_stage.settings import parse_steps
from tests.helm.matrix import GPU_MODES, LAYOUTS, WEIGHTS, stages
from tests.helm.rendering import Document, Values, arguments, containers, merged, named, pipeline_pod, render

WITHOUT_GPU = {"cpu"}


def values_of(layout: str, gpu: str) -> Values:
    base = WEIGHTS["random"] if gpu == "cpu" else WEIGHTS["pvc"]
    roomy = {"vaeDecoder": {"device": 9}} if gpu == "shared" else {}
    return merged(base, GPU_MODES[gpu], stages(layout), roomy)


def gpus_of(documents: list[Document], values: Values) -> dict[str, tuple[str, object]]:
    """The GPU of every container that has one, by a name that is equal only where the GPU is."""
    found: dict[str, tuple[str, object]] = {}
    for container in containers(pipeline_pod(documents)):
        limits = container["resources"]["limits"]
        requests = container["resources"]["requests"]
        extended = {name: amount for name, amount in limits.items() if "/" in name}
        assert extended == {name: amount for name, amount in requests.items() if "/" in name}
        if extended:
            assert list(extended.values()) == [1]
            found[container["name"]] = ("plugin", container["name"])  # the plugin gives a card to one container alone
        for claim in container["resources"].get("claims", []):
            found[container["name"]] = (claim["name"], claim["request"])
        if values["gpu"]["mode"] == "shared" and arguments(container)["device"] != "cpu":
            found[container["name"]] = ("index", arguments(container)["device"])
    return found


@pytest.mark.parametrize("gpu", GPU_MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_as_many_gpus_as_stages_and_decoder(layout: str, gpu: str) -> None:
    values = values_of(layout, gpu)
    documents = render(values)
    gpus = gpus_of(documents, values)
    workers = {f"denoise-stage-{steps[0]}" for steps in LAYOUTS[layout]} | {"vae-decoder"}
    if gpu in WITHOUT_GPU:
        assert gpus == {}
        return
    encoder = {"audio-encoder"} if "Encoder" in gpu else set()
    assert set(gpus) == workers | encoder
    assert len({gpus[name] for name in workers}) == len(workers)
    assert len(set(gpus.values())) == len(workers) + (gpu == "ownEncoder")
    if gpu == "draSharedEncoder":
        assert gpus["audio-encoder"] == gpus["vae-decoder"]


@pytest.mark.parametrize("gpu", GPU_MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_step_is_performed_once_and_the_chain_is_whole(layout: str, gpu: str) -> None:
    pod = pipeline_pod(render(values_of(layout, gpu)))
    reported = {container["name"]: arguments(container) for container in pod["containers"]}
    at = {f"127.0.0.1:{flags['server.port']}": name for name, flags in reported.items()}
    assert len(at) == len(reported)
    way = ["audio-encoder"]
    while "next" in reported[way[-1]]:
        way.append(at[reported[way[-1]]["next"]])
    assert way == ["audio-encoder", *(f"denoise-stage-{steps[0]}" for steps in LAYOUTS[layout]), "vae-decoder"]
    assert set(way) == set(reported)
    steps = [list(parse_steps(reported[name]["steps"])) for name in way[1:-1]]
    assert steps == LAYOUTS[layout]
    count = sum(map(len, steps))
    assert [step for stage in steps for step in stage] == list(range(count))
    assert {reported[name]["step-count"] for name in way[1:-1]} == {str(count)}


@pytest.mark.parametrize("gpu", GPU_MODES)
def test_no_container_reaches_around_its_allocation(gpu: str) -> None:
    pod = pipeline_pod(render(values_of("4x1", gpu)))
    for container in containers(pod):
        names = {one["name"] for one in container.get("env", [])}
        assert "CUDA_VISIBLE_DEVICES" not in names
        assert ("NVIDIA_VISIBLE_DEVICES" in names) == (gpu == "shared" and container["name"] != "audio-encoder")
        device = arguments(container)["device"]
        expected = "cuda" if gpu not in ("cpu", "shared") else device
        assert device == ("cpu" if container["name"] == "audio-encoder" and "Encoder" not in gpu else expected)
    assert not any("/dev" in volume.get("hostPath", {}).get("path", "") for volume in pod.get("volumes", []))
    keys = {toleration["key"] for toleration in pod.get("tolerations", [])}
    assert keys == (set() if gpu == "cpu" else {"nvidia.com/gpu"})


@pytest.mark.parametrize("gpu", ["dra", "draSharedEncoder"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_request_of_a_claim_is_one_card_that_somebody_uses(layout: str, gpu: str) -> None:
    values = values_of(layout, gpu)
    documents = render(values)
    claim = named(documents, "ResourceClaimTemplate", "-gpus")
    (reference,) = pipeline_pod(documents)["resourceClaims"]
    assert reference["resourceClaimTemplateName"] == claim["metadata"]["name"]
    devices = claim["spec"]["spec"]["devices"]
    requested = {request["name"]: request["exactly"] for request in devices["requests"]}
    assert len(requested) == len(devices["requests"])
    assert set(requested) == {request for _, request in gpus_of(documents, values).values()}
    for exactly in requested.values():
        assert exactly == {"deviceClassName": "gpu.nvidia.com", "allocationMode": "ExactCount", "count": 1}
    assert devices["constraints"] == [{"matchAttribute": "gpu.nvidia.com/productName"}]


def test_a_stage_on_a_part_of_a_card() -> None:
    values = merged(WEIGHTS["pvc"], {"stages": [{"steps": [0]}, {"steps": [1], "resource": "nvidia.com/mig-3g.40gb"}]})
    pod = pipeline_pod(render(values))
    limits = {one["name"]: set(one["resources"]["limits"]) - {"cpu", "memory"} for one in pod["containers"]}
    assert limits["denoise-stage-1"] == {"nvidia.com/mig-3g.40gb"}
    assert limits["denoise-stage-0"] == limits["vae-decoder"] == {"nvidia.com/gpu"}


def test_the_leave_to_share_reaches_both_who_ask_for_it() -> None:
    for leave in (False, True):
        documents = render(merged(WEIGHTS["pvc"], {"gpu": {"allowShared": leave}}))
        gateway = named(documents, "Deployment", "-gateway")["spec"]["template"]["spec"]
        encoder = pipeline_pod(documents)["containers"][0]
        for container in (gateway["containers"][0], encoder):
            assert arguments(container)["allow-shared-devices"] == str(leave).lower()


@dataclass
class Hop:
    """A chain whose services all work."""

    chain: Sequence[ServiceInfo]
    ready: bool = True


def takes_sessions(gpu: str, sliced: bool = False) -> bool:
    """What the head of a rendered pipeline says of its cards; ``sliced``: the node gives one of them twice."""
    values = values_of("4x1", gpu)
    documents = render(values)
    cards = {name: str(card) for name, card in gpus_of(documents, values).items()}
    if sliced:
        cards["denoise-stage-0"] = cards["vae-decoder"]
    head, *others = pipeline_pod(documents)["containers"]
    services = [ServiceInfo(name=one["name"], device=cards.get(one["name"], one["name"])) for one in (head, *others)]
    return HeadReadiness(Hop(services), allow_shared_devices=arguments(head)["allow-shared-devices"] == "true")()


@pytest.mark.parametrize("gpu", GPU_MODES)
def test_who_shares_a_card_takes_sessions_with_leave_alone(gpu: str) -> None:
    assert takes_sessions(gpu)
    if gpu not in WITHOUT_GPU:
        assert takes_sessions(gpu, sliced=True) == (gpu == "draSharedEncoder")


def test_ports_of_a_layout_stay_when_a_stage_is_added() -> None:
    fewer, more = (pipeline_pod(render(values_of(layout, "cpu"))) for layout in ("3x1", "4x1"))
    ports = [
        {port["name"]: port["containerPort"] for container in pod["containers"] for port in container["ports"]}
        for pod in (fewer, more)
    ]
    assert ports[0].items() < ports[1].items()
    numbers = sorted(ports[1].values())
    assert all(a < b for a, b in pairwise(numbers))
    assert numbers[-1] < 32_768, "an outgoing connection of the pod could take it"
