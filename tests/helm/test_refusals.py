"""Wrong values are refused before anything is installed, in words that say what to change."""

from typing import Any

import pytest

from tests.helm.rendering import RefusedError, render_texts

RANDOM_TINY = {"weights": {"source": "random"}, "model": {"preset": "TINY"}}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a mode that is none": ({"gpu": {"mode": "bogus"}}, "/gpu/mode.*'devicePlugin', 'dra', 'shared', 'cpu'"),
    "a misspelt group": ({"pipline": {"replicas": 2}}, "'pipline' not allowed"),
    "a misspelt value": ({"gateway": {"replica": 2}}, "/gateway.*'replica' not allowed"),
    "a word for a number": ({"pipeline": {"replicas": "two"}}, "/pipeline/replicas.*want integer"),
    "no stages": ({"stages": []}, "/stages.*minItems"),
    "a stage without steps": ({"stages": [{"steps": []}]}, "/stages/0/steps.*minItems"),
    "no limits": ({"gateway": {"resources": {"limits": None}}}, "/gateway/resources"),
    "half a GPU": ({"gpu": {"resource": "gpu"}}, "/gpu/resource.*does not match"),
    "a quantity that is none": (
        {"vaeDecoder": {"resources": {"limits": {"memory": "1Gigs"}}}},
        "/vaeDecoder/resources/limits/memory",
    ),
    "a short digest": ({"weights": {"digest": "abc"}}, "/weights/digest.*does not match"),
    "root": ({"podSecurity": {"runAsUser": 0}}, "/podSecurity/runAsUser"),
    "a registry without a slash": ({"image": {"registry": "example.com"}}, "/image/registry"),
    "a step left out": ({"stages": [{"steps": [0]}, {"steps": [2]}]}, r"stages\[1\].steps: step 2 .* step 1 is due"),
    "a step done twice": ({"stages": [{"steps": [0, 1]}, {"steps": [1]}]}, r"stages\[1\].steps: step 1 .* step 2"),
    "a first step that is not 0": ({"stages": [{"steps": [1]}]}, r"stages\[0\].steps: step 1 .* step 0 is due"),
    "two containers on one plugin's card": ({"audioEncoder": {"gpu": "decoder"}}, "audioEncoder.gpu: a device plugin"),
    "a GPU without GPUs": ({"gpu": {"mode": "cpu"}, "audioEncoder": {"gpu": "own"}}, "audioEncoder.gpu: gpu.mode cpu"),
    "a card shared without leave": (
        {"gpu": {"mode": "dra"}, "audioEncoder": {"gpu": "decoder"}},
        "allow it with gpu.allowShared",
    ),
    "an index taken twice": (
        {"gpu": {"mode": "shared"}, "vaeDecoder": {"device": 2}},
        "denoise-stage-2 and vae-decoder use device 2",
    ),
    "a large model without weights": ({"weights": {"source": "random"}}, "not for S2V_14B"),
    "weights that the images do not hold": ({"weights": {"source": "package"}}, "weights of TINY and TINY_128 alone"),
    "8-bit layers without their report": ({"denoiseStage": {"linear": "fp8"}}, "denoiseStage.fp8Report: linear fp8"),
    "an image that is not named": ({"weights": {"source": "image"}}, "weights.image.reference"),
    "a description of another name": (
        {"model": {"preset": "MINE", "description": {"name": "OTHER"}}},
        "model.preset: MINE is not the name",
    ),
    "several gateways without a store": ({"redis": {"mode": "none"}}, "gateway.replicas: several gateways need"),
    "an external store that is nowhere": ({"redis": {"mode": "external"}}, "redis.external: .* url or existingSecret"),
    "names of pods that come and go": (
        {"gateway": {"discovery": "static"}, "autoscaling": {"enabled": True}},
        "gateway.discovery: with autoscaling",
    ),
    "fewer at most than at least": (
        {"autoscaling": {"enabled": True, "minReplicas": 3, "maxReplicas": 2}},
        "autoscaling.maxReplicas: 2 is less than minReplicas, 3",
    ),
    "several nodes for one Job": ({"trainer": {"backend": "job", "nodes": 2}}, "trainer.nodes: .* trainJob"),
    "training data by noise": ({**RANDOM_TINY, "prepare": {"enabled": True}}, "random ones will not do"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_refused(name: str) -> None:
    values, message = WRONG[name]
    with pytest.raises(RefusedError, match=f"(?s){message}"):
        render_texts(values)


@pytest.mark.parametrize("preset", ["TINY", "TINY_128"])
def test_the_weights_of_the_images_serve_both_small_presets(preset: str) -> None:
    values = {"weights": {"source": "package"}, "model": {"preset": preset}, "gpu": {"mode": "cpu"}}
    assert preset in "".join(render_texts(values).values())
