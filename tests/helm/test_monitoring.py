"""Alerts, dashboards and scaling ask for series that the services really export."""

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest

from live_avatar.serving.settings import TelemetrySettings
from live_avatar.serving.telemetry import Telemetry
from tests.helm.matrix import samples
from tests.helm.rendering import CHART, ROOT, merged, named, of_kind, pods, render
from tests.serving.test_telemetry import record_everything, scrape

SAMPLES = samples()
TARGET_LABELS = {"namespace", "pod", "job"}
"""What Prometheus adds."""
DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))
OPERATIONS = ROOT / "docs" / "guides" / "deploy.md"

Series = dict[str, set[str]]


@pytest.fixture(scope="module")
def exported() -> Series:
    """Every series of a live scrape with its labels."""
    with Telemetry.start(TelemetrySettings(prometheus_port=0), "test") as telemetry:
        record_everything(telemetry)
        families = scrape(telemetry).values()
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Name and labels of every series that a PromQL expression asks for; raises where it is none."""
    found: list[tuple[str, set[str]]] = []

    def note(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name or "", {matcher.name for matcher in node.matchers.matchers}))

    promql_parser.walk(promql_parser.parse(expression), note)
    yield from found


def groupings(expression: str) -> set[str]:
    """Labels that an expression groups by."""
    return {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(",")}


def check(expression: str, exported: Series) -> None:
    """Raises where a series or a label does not exist."""
    asked = list(selectors(expression))
    assert asked, expression
    for name, labels in asked:
        assert name in exported, f"{name} is not exported"
        assert labels <= exported[name] | TARGET_LABELS, f"{name} has no label {labels - exported[name]}"
    have = set().union(*(exported[name] for name, _ in asked))
    assert groupings(expression) <= have | TARGET_LABELS, expression


def alerts() -> list[dict[str, Any]]:
    (group,) = named(render(SAMPLES["everything"]), "PrometheusRule", "-alerts")["spec"]["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_there_is(rule: dict[str, Any], exported: Series) -> None:
    check(rule["expr"], exported)
    labels = {"pod", "service", "target", "reason"} & set(
        re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
    )
    assert labels <= groupings(rule["expr"]), "the summary names a label that the alert has not"


def test_the_check_finds_what_does_not_exist(exported: Series) -> None:
    check('sum by (service) (rate(live_avatar_blocks_started_total{pod="a"}[5m]))', exported)
    for wrong in (
        "live_avatar_blocks_begun_total",
        'live_avatar_blocks_started_total{color="red"}',
        "sum by (color) (live_avatar_blocks_started_total)",
    ):
        with pytest.raises(AssertionError):
            check(wrong, exported)
    with pytest.raises(ValueError, match=r"."):
        check("sum(live_avatar_blocks_started_total", exported)


def test_every_alert_is_explained() -> None:
    explained = re.findall(r"^### (LiveAvatar\w+)$", OPERATIONS.read_text(), flags=re.MULTILINE)
    assert explained == [rule["alert"] for rule in alerts()]
    assert all(rule["labels"]["severity"] in ("info", "warning", "critical") for rule in alerts())


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_shows_what_there_is(path: Any, exported: Series) -> None:
    dashboard = json.loads(path.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 6
    for panel in panels:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5m").replace("$namespace", "ns")
            check(expression, exported)
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= groupings(expression), panel["title"]
    for variable in dashboard["templating"]["list"]:
        for name in re.findall(r"label_values\((\w+),", variable["query"]):
            assert name in exported


def test_dashboards_do_not_overlap() -> None:
    for path in DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(path.read_text())["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & taken, f"{path.name}: {panel['title']}"
            assert at["x"] + at["w"] <= 24
            taken |= cells


def test_dashboards_arrive_whole() -> None:
    maps = [
        one
        for one in of_kind(render(SAMPLES["everything"]), "ConfigMap")
        if "grafana_dashboard" in one["metadata"]["labels"]
    ]
    contents = [json.loads(text) for one in maps for text in one["data"].values()]
    assert contents == [json.loads(path.read_text()) for path in DASHBOARDS]


def test_every_metrics_port_is_scraped_under_its_own_labels() -> None:
    documents = render(SAMPLES["everything"])
    scraped: set[str] = set()
    for monitor in of_kind(documents, "ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        services = [
            one for one in of_kind(documents, "Service") if selector.items() <= one["metadata"]["labels"].items()
        ]
        ports = {port["name"]: port["targetPort"] for service in services for port in service["spec"]["ports"]}
        for endpoint in monitor["spec"]["endpoints"]:
            assert endpoint["honorLabels"] is True
            scraped.add(f"{selector['app.kubernetes.io/component']}/{ports[endpoint['port']]}")
    there = {
        f"{metadata['labels']['app.kubernetes.io/component']}/{port['name']}"
        for _, metadata, pod in pods(documents)
        for container in pod["containers"]
        for port in container.get("ports", [])
        if port["name"].startswith("metrics")
    }
    assert scraped == there


def test_alerts_look_at_the_services_that_are_scraped() -> None:
    documents = render(SAMPLES["everything"])
    services = {one["metadata"]["name"] for one in of_kind(documents, "Service")}
    jobs = {job for rule in alerts() for job in re.findall(r'job="([^"]*)"', rule["expr"])}
    assert jobs == {"rel-live-avatar-pipeline", "rel-live-avatar-gateway-metrics"} <= services


def test_scaling_follows_sessions_in_use(exported: Series) -> None:
    documents = render(SAMPLES["keda"])
    scaler = named(documents, "ScaledObject", "-pipeline")["spec"]
    (trigger,) = scaler["triggers"]
    check(trigger["metadata"]["query"], exported)
    names = [name for name, _ in selectors(trigger["metadata"]["query"])]
    assert names == ["live_avatar_sessions_active", "live_avatar_sessions_capacity"]
    hpa = named(
        render(merged(SAMPLES["hpa"], {"autoscaling": {"usedRatio": 0.65}})), "HorizontalPodAutoscaler", "-pipeline"
    )
    assert hpa["spec"]["metrics"][0]["external"]["target"] == {"type": "Value", "value": "650m"}
    for target in (scaler["scaleTargetRef"], hpa["spec"]["scaleTargetRef"]):
        scaled = named(documents, target["kind"], target["name"])
        assert scaled["apiVersion"] == target["apiVersion"]
        assert "replicas" not in scaled["spec"], "it would undo the scaler's work at every upgrade"
