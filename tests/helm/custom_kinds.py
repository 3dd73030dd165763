"""Strict shapes of the objects whose kinds come with operators: as much of each as the chart may use.

``kubernetes-validate`` knows the kinds of Kubernetes alone.  Fields and types as the operators document them:
Prometheus operator 0.80, KEDA 2.16, Kubeflow Trainer 2.0 to 2.2, cert-manager 1.17.
"""

from typing import Any

from tests.helm.rendering import Document

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
TIME: Schema = {"type": "string", "pattern": r"^([0-9]+(ms|[smhdwy]))+$"}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def fields(required: str = "", **known: Schema) -> Schema:
    """An object with these fields and no others."""
    return {"type": "object", "additionalProperties": False, "properties": known, "required": required.split()}


def many(item: Schema) -> Schema:
    """A list with something in it."""
    return {"type": "array", "items": item, "minItems": 1}


_ENDPOINT = fields("port", port=TEXT, interval=TIME, honorLabels={"type": "boolean"}, path=TEXT, scheme=TEXT)
_RULE = fields("alert expr", alert=TEXT, expr=TEXT, labels=LABELS, annotations=LABELS, **{"for": TIME})
_POLICY = fields("type value periodSeconds", type={"enum": ["Pods", "Percent"]}, value=COUNT, periodSeconds=COUNT)
_DIRECTION = fields(stabilizationWindowSeconds={**COUNT, "maximum": 3600}, policies=many(_POLICY), selectPolicy=TEXT)
_TARGET = fields("name", apiVersion=TEXT, kind=TEXT, name=TEXT)
_PROMETHEUS = fields(
    "serverAddress threshold query",
    serverAddress=TEXT,
    query=TEXT,
    threshold={"type": "string", "pattern": r"^[0-9.]+$"},
)
_TRIGGER = fields(
    "type metadata", type={"const": "prometheus"}, metricType={"enum": ["Value", "AverageValue"]}, metadata=_PROMETHEUS
)
_JOB_TEMPLATE = fields("spec", metadata=fields(labels=LABELS), spec={"type": "object"})
_REPLICATED = fields("name template", name={"const": "node"}, template=_JOB_TEMPLATE)
_RUNTIME = fields("apiGroup kind name", apiGroup=TEXT, kind=TEXT, name=TEXT)

_ISSUER = fields("name", name=TEXT, kind=TEXT, group=TEXT)
_PRIVATE_KEY = fields(
    algorithm={"enum": ["RSA", "ECDSA", "Ed25519"]}, size=COUNT, rotationPolicy={"enum": ["Never", "Always"]}
)
_GO_TIME: Schema = {"type": "string", "pattern": r"^([0-9]+(h|m|s))+$"}

SPECS: dict[tuple[str, str], Schema] = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): fields(
        "selector endpoints",
        selector=fields(matchLabels=LABELS),
        namespaceSelector=fields(matchNames=many(TEXT)),
        endpoints=many(_ENDPOINT),
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): fields(
        "groups", groups=many(fields("name rules", name=TEXT, rules=many(_RULE)))
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): fields(
        "scaleTargetRef triggers",
        scaleTargetRef=_TARGET,
        minReplicaCount=COUNT,
        maxReplicaCount=COUNT,
        advanced=fields(
            horizontalPodAutoscalerConfig=fields(behavior=fields(scaleDown=_DIRECTION, scaleUp=_DIRECTION))
        ),
        triggers=many(_TRIGGER),
    ),
    ("cert-manager.io/v1", "Issuer"): fields(selfSigned=fields(), ca=fields("secretName", secretName=TEXT)),
    ("cert-manager.io/v1", "Certificate"): fields(
        "secretName issuerRef",
        secretName=TEXT,
        isCA={"type": "boolean"},
        commonName={**TEXT, "maxLength": 64},
        dnsNames=many(TEXT),
        ipAddresses=many(TEXT),
        duration=_GO_TIME,
        renewBefore=_GO_TIME,
        usages=many({"enum": ["digital signature", "server auth", "client auth"]}),
        privateKey=_PRIVATE_KEY,
        issuerRef=_ISSUER,
    ),
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"): fields(
        "template",
        mlPolicy=fields(numNodes=COUNT, torch=fields()),
        template=fields("spec", spec=fields("replicatedJobs", replicatedJobs=many(_REPLICATED))),
    ),
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"): fields(
        "runtimeRef", runtimeRef=_RUNTIME, trainer=fields(numNodes=COUNT, numProcPerNode=COUNT)
    ),
}


def schema_of(document: Document) -> Schema | None:
    """What the object must look like; None where its kind is not one of these."""
    spec = SPECS.get((document["apiVersion"], document["kind"]))
    if spec is None:
        return None
    metadata = fields("name namespace labels", name=TEXT, namespace=TEXT, labels=LABELS, annotations=LABELS)
    return fields("apiVersion kind metadata spec", apiVersion=TEXT, kind=TEXT, metadata=metadata, spec=spec)
