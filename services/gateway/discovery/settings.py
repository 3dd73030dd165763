"""Settings of how pipelines are found."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from live_avatar.serving.settings import Group

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_PortName = Annotated[str, Field(pattern=f"^{_LABEL}$", max_length=15)]
_ObjectName = Annotated[str, Field(pattern=rf"^{_LABEL}/{_LABEL}(\.{_LABEL})*$")]


class DiscoverySettings(Group):
    """Where pipelines are looked for when they are not named."""

    dns: Annotated[str, Field(pattern=r"^[^/\s]+:\d+/\d+$")] | None = Field(
        default=None,
        description="host name whose addresses are pipelines, as HOST:HEAD_PORT/DECODER_PORT; "
        "for example that of a headless Service",
    )
    dns_poll_seconds: float = Field(
        default=5.0, ge=0.05, le=3600, description="time between two look-ups of the host name"
    )
    service: _ObjectName | None = Field(
        default=None,
        description="Service of a Kubernetes cluster whose ready pods are pipelines, as NAMESPACE/NAME",
    )
    head_port_name: _PortName = Field(
        default="audio-encoder", description="name of the Service's port at which audio encoders listen"
    )
    decoder_port_name: _PortName = Field(
        default="vae-decoder", description="name of the Service's port at which VAE decoders listen"
    )
    lease: _ObjectName | None = Field(
        default=None,
        description="Lease by which gateways elect the one that ends the sessions of lost gateways, as "
        "NAMESPACE/NAME; unset: every gateway does",
    )
    lease_seconds: int = Field(
        default=15, ge=1, le=600, description="how long the Lease is held after its holder's last renewal"
    )
    kubeconfig: Path | None = Field(
        default=None, description="kubeconfig file of the cluster; unset: the cluster in which this pod runs"
    )
