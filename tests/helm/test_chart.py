"""The chart renders, for every sensible combination of values, to objects that Kubernetes would take."""

import functools
import json
from copy import deepcopy
from itertools import combinations as pairs

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.helm.custom_kinds import schema_of
from tests.helm.matrix import AUTH, GPU_MODES, LAYOUTS, OPTIONS, WEIGHTS, combinations, samples
from tests.helm.rendering import (
    CHART,
    KUBE_VERSIONS,
    Document,
    Values,
    ci_values,
    containers,
    lint,
    merged,
    pods,
    render,
    render_texts,
)
from tools.chart_readme import descriptions, with_table
from tools.images import DOCKERFILES, image_name
from tools.images import version as images_version

SAMPLES = samples()
# It reads the definitions of all of Kubernetes again for every object.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)
CI = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").iterdir())


_SEEN: set[tuple[str, str]] = set()


DEPRECATED = {"pipeline.blockDeadlineSeconds"}
"""Values that are still read under an old name, so the schema knows them and no default stands beside them."""


def check(document: Document, kube_version: str) -> None:
    """Raises where the API server would refuse the shape of ``document``; looks at equal ones once."""
    identity = (kube_version, json.dumps(document, sort_keys=True))
    if identity not in _SEEN:
        _check(document, kube_version)
    _SEEN.add(identity)


def _check(document: Document, kube_version: str) -> None:
    schema = schema_of(document)
    if schema is not None:
        jsonschema.validate(document, schema)
    else:
        kubernetes_validate.validate(document, kube_version, strict=True)


@pytest.mark.parametrize("kube_version", KUBE_VERSIONS)
def test_lint_is_clean_on_every_kubernetes(kube_version: str) -> None:
    assert lint(OPTIONS["everything"], kube_version) == []


@pytest.mark.parametrize("name", SAMPLES)
def test_lint_is_clean(name: str) -> None:
    assert lint(SAMPLES[name], KUBE_VERSIONS[0]) == []


def test_lint_finds_what_is_wrong() -> None:
    assert lint({"gpu": {"mode": "bogus"}}, "1.35")


@pytest.mark.parametrize("name", SAMPLES)
def test_every_object_is_valid(name: str) -> None:
    for kube_version in (KUBE_VERSIONS[0], KUBE_VERSIONS[-1]):
        documents = render(merged(SAMPLES[name], {"kubeVersion": f"v{kube_version}.0"}))
        assert documents
        for document in documents:
            check(document, kube_version)


@pytest.mark.parametrize("kube_version", KUBE_VERSIONS)
@pytest.mark.parametrize("name", ["everything", "dra"])
def test_every_kubernetes_takes_it(name: str, kube_version: str) -> None:
    for document in render(merged(SAMPLES[name], {"kubeVersion": f"v{kube_version}.0"})):
        check(document, kube_version)


def test_validation_sees_a_wrong_word() -> None:
    for document in deepcopy(render(merged(OPTIONS["everything"], OPTIONS["keda"]))):
        document["spec" if "spec" in document else "metadata"]["wrongWord"] = 1
        with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
            _check(document, "1.35")


def test_the_matrix_renders_without_a_clash() -> None:
    met: set[tuple[str, str]] = set()
    for names, values in combinations():
        documents = render(values)
        identities = [(one["kind"], one["metadata"]["name"]) for one in documents]
        assert len(identities) == len(set(identities)), names
        assert {one["metadata"]["namespace"] for one in documents} == {"ns"}, names
        met |= set(pairs(names, 2))
    sizes = [len(LAYOUTS), len(GPU_MODES), len(WEIGHTS), len(AUTH)]
    assert len(met) == sum(one * other for one, other in pairs(sizes, 2))


@pytest.mark.parametrize("name", CI)
def test_values_for_ci_are_valid(name: str) -> None:
    values = ci_values(name)
    assert lint(values, "1.35") == []
    for document in render(values):
        check(document, "1.35")


@pytest.mark.parametrize(("kube_version", "api"), [("1.33", "v1beta2"), ("1.34", "v1"), ("1.37", "v1")])
def test_claims_speak_the_api_of_the_cluster(kube_version: str, api: str) -> None:
    values = merged(SAMPLES["dra"], {"kubeVersion": kube_version})
    (claim,) = (one for one in render(values) if one["kind"] == "ResourceClaimTemplate")
    assert claim["apiVersion"] == f"resource.k8s.io/{api}"


def test_notes_report_how_to_go_on() -> None:
    notes = next(text for path, text in render_texts(SAMPLES["random"]).items() if path.endswith("NOTES.txt"))
    assert "helm test rel -n ns" in notes
    assert "service/rel-live-avatar-gateway 50051:50051" in notes
    assert "random" in notes


def test_the_readme_has_the_table_that_the_comments_make() -> None:
    readme, values = (CHART / "README.md").read_text(), (CHART / "values.yaml").read_text()
    assert with_table(readme, values) == readme
    assert with_table(readme, values.replace("# -- Labels of all objects.", "# -- Changed.")) != readme


def leaves(values: object, prefix: str = "") -> set[str]:
    """Dotted names of everything that is not a group of values."""
    if not isinstance(values, dict) or not values:
        return {prefix}
    return {name for key, value in values.items() for name in leaves(value, f"{prefix}.{key}" if prefix else key)}


def test_every_value_is_described() -> None:
    text = (CHART / "values.yaml").read_text()
    described = {name for name, _ in descriptions(text)}
    silent = {
        name
        for name in leaves(yaml.safe_load(text))
        if not any(name == reported or name.startswith(f"{reported}.") for reported in described)
    }
    assert silent == set()


def test_the_schema_knows_the_values_and_no_others() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def known(node: Values, prefix: str = "") -> set[str]:
        if "properties" not in node:
            return {prefix}
        assert node["additionalProperties"] is False, prefix
        return {
            name
            for key, value in node["properties"].items()
            for name in known(value, f"{prefix}.{key}" if prefix else key)
        }

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    have = {name for name in known(schema) if name != "global"}
    # The contents of a free object, such as requests and limits, are not named by the schema one by one.
    owners = {name: [one for one in have if f"{name}.".startswith(f"{one}.")] for name in leaves(values)}
    assert [name for name, owner in owners.items() if not owner] == []
    assert have - DEPRECATED == {owner[0] for owner in owners.values()}


def test_the_chart_says_what_registries_show() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = next(line for line in (CHART.parent / "pyproject.toml").read_text().splitlines() if "version" in line)
    assert chart["appVersion"] in version
    assert chart["kubeVersion"] == f">={KUBE_VERSIONS[0]}.0-0"
    changes = yaml.safe_load(chart["annotations"]["artifacthub.io/changes"])
    assert all(
        change["kind"] in ("added", "changed", "deprecated", "removed", "fixed", "security") for change in changes
    )
    images = yaml.safe_load(chart["annotations"]["artifacthub.io/images"])
    rendered = {
        container["image"] for _, _, pod in pods(render(OPTIONS["everything"])) for container in containers(pod)
    }
    assert {image["image"] for image in images} == rendered
    built = {image_name(service, "", images_version()) for service in DOCKERFILES}
    assert built == {image for image in rendered if image.startswith("live-avatar-")}, "make images and the chart agree"
