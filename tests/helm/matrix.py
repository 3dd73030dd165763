"""The values that the chart is rendered with: every way of giving GPUs x layouts x weights x secrets."""

from collections.abc import Iterator
from itertools import product
from typing import Any

from tests.helm.rendering import Values, merged

LAYOUTS: dict[str, list[list[int]]] = {
    "4x1": [[0], [1], [2], [3]],
    "3x1": [[0], [1], [2]],
    "2x2": [[0, 1], [2, 3]],
    "1x4": [[0, 1, 2, 3]],
    "uneven": [[0, 1, 2], [3]],
}
GPU_MODES: dict[str, dict[str, Any]] = {
    "devicePlugin": {"gpu": {"mode": "devicePlugin"}},
    "mig": {"gpu": {"mode": "devicePlugin", "resource": "nvidia.com/mig-3g.40gb"}},
    "ownEncoder": {"gpu": {"mode": "devicePlugin"}, "audioEncoder": {"gpu": "own"}},
    "dra": {"gpu": {"mode": "dra"}},
    "draSharedEncoder": {"gpu": {"mode": "dra", "allowShared": True}, "audioEncoder": {"gpu": "decoder"}},
    "shared": {"gpu": {"mode": "shared", "runtimeClassName": "nvidia"}},
    "cpu": {"gpu": {"mode": "cpu"}, "model": {"preset": "TINY"}},
}
WEIGHTS: dict[str, dict[str, Any]] = {
    "pvc": {"weights": {"source": "pvc", "digest": "0f" * 32}},
    "hostPath": {"weights": {"source": "hostPath"}},
    "image": {"weights": {"source": "image", "image": {"reference": "example.com/weights:1"}, "subPath": "s2v"}},
    "copy": {"weights": {"source": "copy", "image": {"reference": "example.com/weights:1"}}},
    "package": {"weights": {"source": "package"}, "model": {"preset": "TINY"}},
    "random": {"weights": {"source": "random"}, "model": {"preset": "TINY"}},
}
AUTH: dict[str, dict[str, Any]] = {
    "made": {},
    "given": {"auth": {"existingSecret": "tokens"}, "redis": {"own": {"password": "s3cret"}}},
    "external": {"redis": {"mode": "external", "external": {"existingSecret": "redis"}}},
    "none": {"redis": {"mode": "none"}, "gateway": {"replicas": 1}},
}
EVERYTHING: dict[str, Any] = {
    "commonLabels": {"team": "avatars"},
    "telemetry": {
        "otlpEndpoint": "http://collector.monitoring:4317",
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "alerts": {"enabled": True},
        "dashboards": {"enabled": True},
    },
    "networkPolicy": {"clients": [{"namespaceSelector": {}}], "monitoring": [{"podSelector": {}}]},
    "pipeline": {"gpuProducts": ["NVIDIA-H100-80GB-HBM3"], "podAnnotations": {"a": "b"}},
    "redis": {"own": {"persistence": {"enabled": True, "storageClassName": "fast"}}},
    "trainer": {"backend": "job", "options": {"steps": 10, "learning_rate": 0.00002}},
    "prepare": {"enabled": True, "options": {"clips_per_shard": 8}},
}
"""All that is off by default, at once."""
OPTIONS: dict[str, dict[str, Any]] = {
    "everything": EVERYTHING,
    "keda": {"autoscaling": {"enabled": True}},
    "hpa": {"autoscaling": {"enabled": True, "kind": "hpa"}},
    "dns": {"gateway": {"discovery": "dns"}},
    "static": {"gateway": {"discovery": "static"}, "pipeline": {"replicas": 3}},
    "trainJob": {"trainer": {"backend": "trainJob", "nodes": 4}},
    "fast": {
        "denoiseStage": {"forward": "compiled", "linear": "fp8", "fp8Report": "fp8.json", "kv": "fp8"},
        "vaeDecoder": {"forward": "compiled"},
        "pipeline": {"warmSizes": ["704x384", "640x448"]},
    },
    "tls-off": {"tls": {"enabled": False}},
    "tls-certManager": {"tls": {"mode": "certManager"}},
    "tls-issuer": {
        "gateway": {"endpoint": "avatar.example.com:443"},
        "tls": {"mode": "certManager", "certManager": {"issuer": {"name": "letsencrypt", "kind": "ClusterIssuer"}}},
    },
    "tls-clients": {"tls": {"clients": {"existingSecret": "callers", "names": ["spiffe://example.com/team"]}}},
    "open": {"networkPolicy": {"enabled": False}},
}


def stages(layout: str) -> dict[str, Any]:
    """Values of a layout."""
    return {"stages": [{"steps": steps} for steps in LAYOUTS[layout]]}


def combinations() -> Iterator[tuple[tuple[str, str, str, str], Values]]:
    """Names and values of a square in which every way of giving GPUs meets every layout and every source of weights.

    All layouts x GPUs x weights x secrets are 840; any two choices of which one could disturb the other meet here.
    """
    layouts, secrets = list(LAYOUTS), list(AUTH)
    for (row, gpu), (column, weights) in product(enumerate(GPU_MODES), enumerate(WEIGHTS)):
        layout = layouts[(row + column) % len(layouts)]
        auth = secrets[(column + 3 * (row // 2)) % len(secrets)]
        yield (layout, gpu, weights, auth), merged(WEIGHTS[weights], GPU_MODES[gpu], stages(layout), AUTH[auth])


def samples() -> dict[str, Values]:
    """Fewer of them, with every part of the chart in at least one."""
    base = merged(WEIGHTS["pvc"])
    chosen = {gpu: merged(base, values) for gpu, values in GPU_MODES.items()}
    chosen |= {weights: merged(values) for weights, values in WEIGHTS.items()}
    chosen |= {f"auth-{auth}": merged(base, values) for auth, values in AUTH.items()}
    return chosen | {option: merged(base, values) for option, values in OPTIONS.items()}
