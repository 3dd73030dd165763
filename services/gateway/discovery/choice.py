"""The way of finding pipelines that the settings choose.

Composes.  The Kubernetes client takes a second and 50 MB to import, so it comes in only where a cluster is asked.
"""

from collections.abc import Sequence

from live_avatar.services.gateway.discovery.dns import DnsDiscovery, DnsName
from live_avatar.services.gateway.discovery.settings import DiscoverySettings
from live_avatar.services.gateway.discovery.slices import PortNames
from live_avatar.services.gateway.discovery.source import Discovery, parse_address
from live_avatar.services.gateway.discovery.static import StaticDiscovery


def open_discovery(pipelines: Sequence[str], settings: DiscoverySettings) -> Discovery:
    """How pipelines are found: by name (``HEAD/DECODER``) where any is given, else as ``settings`` say.

    Raises:
        ValueError: there is no cluster to ask.
    """
    if settings.dns is not None:
        return DnsDiscovery(DnsName.parse(settings.dns), settings.dns_poll_seconds)
    if settings.service is None:
        return StaticDiscovery(parse_address(text) for text in pipelines)
    from kubernetes.client import DiscoveryV1Api

    from live_avatar.services.gateway.cluster import ObjectName, open_client
    from live_avatar.services.gateway.discovery.kubernetes import KubernetesDiscovery

    return KubernetesDiscovery(
        DiscoveryV1Api(open_client(settings.kubeconfig)),
        ObjectName.parse(settings.service),
        PortNames(settings.head_port_name, settings.decoder_port_name),
    )
