"""The parts of the chart by which gateways find pipelines, installed in a real cluster."""

from dataclasses import dataclass
from functools import cached_property

from tests.helm.rendering import NAMESPACE, Document, arguments, ci_values, merged, named, render

from .kinds import create
from .older import older
from .servers import ApiServer

NAME = "real"
"""Other than that of the documents which are tried and not kept."""
PIPELINES = 3
_WANTED = ("-gateway", "-pipeline")


@dataclass(frozen=True)
class Release:
    """What was installed, and as whom gateways ask."""

    server: ApiServer
    account: ApiServer

    @cached_property
    def flags(self) -> dict[str, str]:
        """Of a gateway."""
        (container,) = named(documents(), "Deployment", "-gateway")["spec"]["template"]["spec"]["containers"]
        return arguments(container)

    @property
    def lease(self) -> str:
        """Namespace and name of the reapers' Lease."""
        return self.flags["discovery.lease"]

    @property
    def pod_labels(self) -> dict[str, str]:
        """By which pipelines are selected."""
        labels: dict[str, str] = named(documents(), "StatefulSet", "-pipeline")["spec"]["selector"]["matchLabels"]
        return labels


def documents() -> list[Document]:
    """The rendered chart, with gateways that ask the cluster."""
    gateways = {"gateway": {"discovery": "kubernetes"}, "pipeline": {"replicas": PIPELINES}, "tls": {"enabled": False}}
    return render(merged(ci_values("cpu"), gateways), release=NAME)


def install(server: ApiServer) -> Release:
    """Accounts, roles, Services and pipelines of the chart; no gateways, whose part the tests have."""
    for kind in ("ServiceAccount", "Role", "RoleBinding", "Service", "StatefulSet"):
        for document in documents():
            if document["kind"] == kind and document["metadata"]["name"].endswith(_WANTED):
                known = older(document)
                assert known is not None
                create(server, known)
    account = named(documents(), "ServiceAccount", "-gateway")["metadata"]["name"]
    return Release(server, server.as_account(NAMESPACE, account))
