"""How we reach the API server of a cluster: names of objects, and a client with the right credentials.

Knows the Kubernetes client; nothing of what is asked.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kubernetes.client import ApiClient, Configuration
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config


@dataclass(frozen=True)
class ObjectName:
    """Names one object of a namespace."""

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``NAMESPACE/NAME``."""
        namespace, _, name = text.partition("/")
        return cls(namespace, name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def open_client(kubeconfig: Path | None) -> ApiClient:
    """A client of the API server; the token of a pod is read again as it changes.

    Args:
        kubeconfig: file that says where it is; None: the cluster in which this pod runs.

    Raises:
        ValueError: neither is there.
    """
    configuration = Configuration()
    try:
        if kubeconfig is None:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            load_kube_config(  # type: ignore[no-untyped-call]
                config_file=str(kubeconfig), client_configuration=configuration
            )
    except (ConfigException, OSError) as error:
        where = f"kubeconfig {kubeconfig}" if kubeconfig else "the service account of this pod"
        raise ValueError(f"no API server by {where}: {error}") from error
    configuration.retries = False  # ours are slower and know when to stop
    if kubeconfig is None:
        configuration.proxy = None  # a proxy of the environment leads out of the cluster
    return ApiClient(configuration)
