"""The chart as Kubernetes gets it: rendered by the real Helm, as plain data.

The engine is the one of ``helm-python-sdk``, or a ``helm`` program where that is not installed.
"""

import functools
import importlib.util
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm"
RELEASE, NAMESPACE = "rel", "ns"
SECRETS = {
    "auth": {
        "tokenKey": "a token key of the tests and of nobody else",
        "apiKey": "la_keyofthetests1_and-of-nobody-else-though-it-must-be-long-enough",
    },
    "redis": {"own": {"password": "also-of-the-tests"}},
    "tls": {
        "mode": "existingSecret",
        "existingSecret": {"gateway": "gateway-certificate", "pipeline": "pipeline-certificate"},
    },
}
KUBE_VERSIONS = ("1.33", "1.34", "1.35", "1.36", "1.37")

Document = dict[str, Any]
Values = Mapping[str, Any]
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast as the one in Python, where it was built."""
HAS_SDK = importlib.util.find_spec("helm_python") is not None


class RefusedError(Exception):
    """Helm refused the values; the message is what its user sees."""


def merged(*layers: Values) -> dict[str, Any]:
    """Values laid over each other as Helm does; a list replaces a list."""
    whole: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            before = whole.get(key)
            both = isinstance(before, Mapping) and isinstance(value, Mapping)
            whole[key] = merged(before, value) if both else value  # type: ignore[arg-type]
    return whole


def ci_values(name: str) -> dict[str, Any]:
    """One of the chart's sets of values for CI."""
    values: dict[str, Any] = yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text())
    return values


def render_texts(
    values: Values, *, upgrade: bool = False, release: str = RELEASE, secrets: Values = SECRETS
) -> dict[str, str]:
    """Every rendered file by the path of its template, ``NOTES.txt`` with them where the engine gives it.

    Args:
        values: of the release.
        upgrade: of a release that is there.
        release: its name.
        secrets: laid below ``values``; no cluster is there to make them.

    Raises:
        RefusedError: the schema or a check refuses the values.
    """
    values = merged(secrets, values)
    if not HAS_SDK:
        return {"all.yaml": _program("template", values, release, *(["--is-upgrade"] if upgrade else []))}
    import helm_python

    try:
        texts: dict[str, str] = _chart().render(
            dict(values),
            name=release,
            namespace=NAMESPACE,
            revision=2 if upgrade else 1,
            is_install=not upgrade,
            is_upgrade=upgrade,
        )
        return texts
    except helm_python.HelmError as error:
        raise RefusedError(str(error)) from error


@functools.cache
def _chart() -> Any:
    import helm_python

    return helm_python.Chart.load(CHART)


def render(values: Values, *, upgrade: bool = False, release: str = RELEASE) -> list[Document]:
    """Every rendered object; equal values are rendered once, so nobody may change what comes back."""
    return _render(json.dumps(values), upgrade, release)


@functools.cache
def _render(values: str, upgrade: bool, release: str) -> list[Document]:
    texts = render_texts(json.loads(values), upgrade=upgrade, release=release)
    manifests = (text for path, text in sorted(texts.items()) if path.endswith(".yaml"))
    return [document for text in manifests for document in yaml.load_all(text, Loader=_LOADER) if document]


def lint(values: Values, kube_version: str) -> list[str]:
    """What a strict lint finds at fault."""
    if not HAS_SDK:
        try:
            _program("lint", values, "", "--strict", "--kube-version", f"v{kube_version}.0")
        except RefusedError as error:
            return [str(error)]
        return []
    import helm_python

    report = helm_python.lint(CHART, dict(values), strict=True, kube_version=f"v{kube_version}.0")
    warnings = [message["error"] for message in report["messages"] if message["severity"] > 1]
    return [*map(str, report["errors"]), *warnings]


def _program(command: str, values: Values, release: str, *flags: str) -> str:
    program = shutil.which("helm")
    assert program is not None, "needs helm-python-sdk (pip install 'live-avatar[dev]') or the program helm"
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(values, file)
        file.flush()
        line = [program, command, *([release] if release else []), str(CHART), "-f", file.name, "-n", NAMESPACE, *flags]
        done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise RefusedError(done.stderr + done.stdout)
    return done.stdout


def of_kind(documents: list[Document], *kinds: str) -> list[Document]:
    """The objects of some kinds."""
    return [document for document in documents if document["kind"] in kinds]


def named(documents: list[Document], kind: str, suffix: str) -> Document:
    """The one object of a kind whose name ends so."""
    (found,) = (one for one in of_kind(documents, kind) if one["metadata"]["name"].endswith(suffix))
    return found


def pods(documents: list[Document]) -> Iterator[tuple[str, Document, Document]]:
    """Owner, metadata and spec of every pod that would run."""
    for document in documents:
        owner = f"{document['kind']}/{document['metadata']['name']}"
        if document["kind"] == "Pod":
            yield owner, document["metadata"], document["spec"]
        elif document["kind"] in ("Deployment", "StatefulSet", "Job"):
            template = document["spec"]["template"]
            yield owner, template["metadata"], template["spec"]
        elif document["kind"] == "TrainingRuntime":
            (job,) = document["spec"]["template"]["spec"]["replicatedJobs"]
            template = job["template"]["spec"]["template"]
            yield owner, template["metadata"], template["spec"]


def containers(pod: Document) -> list[Document]:
    """All containers of a pod, the ones that run first too."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def pipeline_pod(documents: list[Document]) -> Document:
    """The pod of a pipeline."""
    spec: Document = named(documents, "StatefulSet", "-pipeline")["spec"]["template"]["spec"]
    return spec


def arguments(container: Document) -> dict[str, str]:
    """The ``--name=value`` arguments of a container."""
    pairs = (argument.removeprefix("--").partition("=") for argument in container["args"] if "=" in argument)
    return {name: value for name, _, value in pairs}
