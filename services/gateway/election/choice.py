"""The way of electing a leader that the settings choose.

Composes.  The Kubernetes client takes a second and 50 MB to import, so it comes in only where a cluster is asked.
"""

import socket
import uuid
from pathlib import Path

from live_avatar.services.gateway.election.leader import LeaderElection, NoElection


def open_election(lease: str | None, duration_s: int, kubeconfig: Path | None) -> LeaderElection:
    """How the gateway that ends the sessions of vanished gateways is elected.

    Args:
        lease: of the cluster, as ``NAMESPACE/NAME``; None: every gateway is a leader.
        duration_s: how long the lease outlives its holder's last renewal.
        kubeconfig: file that says where the cluster is; None: the one this pod runs in.

    Raises:
        ValueError: there is no cluster to ask.
    """
    if lease is None:
        return NoElection()
    from kubernetes.client import CoordinationV1Api

    from live_avatar.services.gateway.cluster import ObjectName, open_client
    from live_avatar.services.gateway.election.lease import LeaseHolder

    return LeaseHolder(
        CoordinationV1Api(open_client(kubeconfig)),
        ObjectName.parse(lease),
        f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}",
        duration_s=duration_s,
    )
